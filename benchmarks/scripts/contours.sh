#!/bin/bash
# Contours to masks, DICOM-SEGs and features: plastimatch, dcmqi and pyradiomics.
#
#     contours.sh DATA PARAMETERS OUT PROCESSES
#
# DATA has a folder for each patient, with the slices in image/ and the RTSTRUCT in mask/.
set -euo pipefail
export DATA=$1 OUT=$3
parameters=$2 processes=$4
mkdir -p "$OUT"/{images,masks,seg}

cat > "$OUT/gtv.json" <<'JSON'
{
  "ContentCreatorName": "Script", "ContentLabel": "SEGMENTATION", "ContentDescription": "gtv",
  "SeriesDescription": "gtv", "SeriesNumber": "9001", "InstanceNumber": "1",
  "segmentAttributes": [[{
    "labelID": 1, "SegmentLabel": "gtv", "SegmentDescription": "gtv",
    "SegmentAlgorithmType": "MANUAL",
    "SegmentedPropertyCategoryCodeSequence": {"CodeValue": "49755003",
      "CodingSchemeDesignator": "SCT", "CodeMeaning": "Morphologically Abnormal Structure"},
    "SegmentedPropertyTypeCodeSequence": {"CodeValue": "372087000",
      "CodingSchemeDesignator": "SCT", "CodeMeaning": "Neoplasm, Primary"},
    "recommendedDisplayRGBValue": [220, 60, 60]
  }]]
}
JSON

convert() {
  local image="$DATA/$1/image" masks="$OUT/masks/$1"
  plastimatch convert --input "$image" --output-img "$OUT/images/$1.nrrd"
  plastimatch convert --input "$DATA/$1/mask" --referenced-ct "$image" \
    --fixed "$OUT/images/$1.nrrd" --output-prefix "$masks" --prefix-format nrrd
  itkimage2segimage --inputDICOMDirectory "$image" --inputImageList "$(echo "$masks"/GTV*.nrrd)" \
    --inputMetadata "$OUT/gtv.json" --outputDICOM "$OUT/seg/$1.dcm"
}
export -f convert
ls "$DATA" | xargs -P "$processes" -I{} bash -euc 'convert {}' > "$OUT/log"

echo ID,Image,Mask > "$OUT/batch.csv"
for patient in $(ls "$DATA"); do
  echo "$patient,$OUT/images/$patient.nrrd,$(echo "$OUT/masks/$patient"/GTV*.nrrd)"
done >> "$OUT/batch.csv"
pyradiomics "$OUT/batch.csv" --param "$parameters" --out "$OUT/features.csv" --format csv \
  --jobs "$processes" --verbosity 1
