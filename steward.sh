set -u
source /work/tools/env.sh /work/wt/enemye; cd /work/tmp/enemye
fresh(){ rm -rf d; mkdir d; cp -a /work/tmp/consent/demo4/results d/results; cp -a /work/tmp/consent/demo4/sites/north d/north; sed -i "s#/work/tmp/consent/demo4/sites/north#/work/tmp/enemye/d/north#" d/north/site.yaml; }
E_="nice -n 15 jipflow erase - --configfile d/north/site.yaml --results d/results/north"
python -c "import pandas as pd; print(sorted(pd.read_parquet('/work/tmp/consent/demo4/results/north/catalog/series.parquet').PatientID.unique()))"
fresh; echo NORTH-0004 | $E_; echo rc $?
find d/results -type f -perm /077 | head -3; find d/north/secrets -type f -perm /077|head
nice jipflow keys show d/north/secrets/site.key 2>&1 | tail -2
K=$(nice jipflow keys show d/north/secrets/site.key | grep -o 'ed25519:[0-9a-f]*'|head -1)
nice jipflow audit verify d/north/secrets/audit.jsonl --key $K --results d/results/north --ledger d/north/secrets/ledger --secret d/north/secrets/identity.key | tail -4; echo rc $?
nice jipflow ledger show --help 2>&1 | head -12
echo == again; echo NORTH-0004 | $E_; echo rc $?
echo == all; printf 'NORTH-00%s\n' 01 02 03 04 05 06 07 08 09 10 | sed 's/NORTH-00/NORTH-00/' | $E_; echo rc $?
