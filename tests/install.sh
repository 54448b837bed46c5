# Debian packages that building and testing need; sourced by configs/quickstart/run.sh and tests/run.sh.
packages="build-essential clang cmake ninja-build pkg-config libclang-rt-14-dev libomp-14-dev libcmocka-dev libdnnl-dev
    libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libyaml-dev zlib1g-dev python3 python3-pip clang-format-14"
missing=
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    echo "installing$missing"
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
