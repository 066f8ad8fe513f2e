#!/usr/bin/env bash
# As jipflow.post-deploy.sh, with the extra nnunet: for the jobs whose protocol asks for it.
exec bash "$JIPFLOW_REPOSITORY/envs/jipflow.post-deploy.sh" nnunet
