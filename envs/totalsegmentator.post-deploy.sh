#!/usr/bin/env bash
# As jipflow.post-deploy.sh, with the extra totalsegmentator: for the jobs whose protocol asks for it.
exec bash "$JIPFLOW_REPOSITORY/envs/jipflow.post-deploy.sh" totalsegmentator
