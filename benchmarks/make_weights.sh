#!/usr/bin/env bash
# Makes the shipped weights again, from nothing but label maps and necks:
#     bash benchmarks/make_weights.sh LABELMAPS HEADNECK [OUT]
# LABELMAPS holds SynthSeg's seg_01.nii.gz to seg_20.nii.gz (python synthetic.py --download DIR), of
# which 01 to 16 are taken; HEADNECK the X_ct.nii.gz and X_oar.nii.gz of github ababier/open-kbp.
# The network comes to OUT (files/shipped). Killed at any moment, the same command goes on.
set -euo pipefail
maps=$(realpath "$1") necks=$(realpath "$2") out=${3:-files/shipped}
cd "$(dirname "$0")/.."
mkdir -p "$out/labelmaps"
for map in "$maps"/seg_{01..16}.nii.gz; do ln -sf "$map" "$out/labelmaps/"; done
python data.py --synthetic 272 --seed 25 --labels "$out/labelmaps" --necks "$necks" \
    --window hu --size 192 --slices 28 --empty 0.3 --split 87.5 12.5 0 --out "$out/dataset" \
    --licence "label maps: Apache-2.0 (github BBillot/SynthSeg); necks: MIT (github ababier/open-kbp)"
python train.py --data "$out/dataset" --output "$out" --size 160 --epochs 10 --steps 750 --batch 16 \
    --lr 1e-3 --loss dice_cross_entropy --schedule cosine --precision bfloat16 \
    --spacing-mm 1.5 --sure 0.8 --patience 100
# in 16 bits: in 8, blood against the skull is lost in slices
python -c 'import sys; from model import export_model; export_model(sys.argv[1])' "$out/model.keras"
