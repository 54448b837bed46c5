#!/bin/sh
# Every source file stands as clang-format 14 leaves it.
# Usage: check_format.sh SOURCE_FOLDER
set -eu
cd "${1:?usage: check_format.sh SOURCE_FOLDER}"
tool=$(command -v clang-format-14 || command -v clang-format) || {
    echo "clang-format 14 is not installed: SKIPPED"
    exit 77
}
bad=0
for file in base/*.[ch] data/*.[ch] backend/*.[ch] quant/*.[ch] lora/*.[ch] model/*.[ch] optim/*.[ch] trainer/*.[ch] \
    tests/*/*.[ch] */*.cu */*.cuh tests/*/*.cpp tests/*/*/*.cpp tests/*/*/*.h tests/*/*.cu; do
    [ -e "$file" ] || continue
    "$tool" --dry-run -Werror "$file" >/dev/null 2>&1 || {
        echo "$file: run clang-format -i"
        bad=1
    }
done
exit $bad
