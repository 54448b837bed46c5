#!/bin/sh
# Includes point downward only: tests/layers.txt lists for each folder the folders it may include.
# Usage: check_layers.sh SOURCE_FOLDER
set -eu
cd "${1:?usage: check_layers.sh SOURCE_FOLDER}"
bad=0
while read -r folder allowed; do
    pattern=$(echo "$folder $allowed" | tr ' ' '|')
    if grep -nE '^#include "[a-z]+/' "$folder"/*.[ch] $(ls "$folder"/*.cu "$folder"/*.cuh 2>/dev/null) | grep -vE "#include \"($pattern)/"; then
        echo "tests/layers.txt does not allow $folder/ to include these"
        bad=1
    fi
done <tests/layers.txt
exit $bad
