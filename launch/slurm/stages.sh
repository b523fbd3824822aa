#!/bin/bash
# All four stages, each after the one before:
#   launch/slurm/stages.sh configs/train/medcodi-m --nodes=4 --gpus-per-node=8 --ntasks-per-node=8
# The folder holds one configuration for each stage, named so that they sort in order; the rest goes to sbatch.
set -euo pipefail

folder=${1:?usage: stages.sh FOLDER [options of sbatch]}
shift
job=
for config in "$folder"/*.yaml; do
    job=$(sbatch --parsable ${job:+--dependency=afterok:$job} "$@" "$(dirname "$0")/train.sbatch" --config "$config")
    echo "$config: job $job"
done
