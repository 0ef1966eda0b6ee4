# shellcheck shell=bash
# Sourced by `build` and `change`: messages, and the ext4 tools pointed at a partition inside an
# image file. No loop device, no mount, no root: e2fsprogs open FILE?offset=BYTES.

fail() {
    printf 'error: %s\nremedy: %s\n' "$1" "$2" >&2
    exit 1
}

say() {
    printf 'demo disk: %s\n' "$1" >&2
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "$tool is not installed" "run tests/install-prerequisites"
    done
}

# Administrators' tools are not on every user's path.
PATH=$PATH:/usr/sbin:/sbin

# root_offset IMAGE: where the root partition starts, in bytes: the first of type 8300.
root_offset() {
    local start
    start=$(sgdisk --print "$1" 2>/dev/null | awk '$6 == "8300" { print $2; exit }')
    [[ -n $start ]] || fail "$1 has no GPT with a Linux partition" \
        "give a disk made by tests/demo-disk/build"
    printf '%s\n' $((start * 512))
}

# check_file_system IMAGE?offset=N: complains of anything that e2fsck would mend.
check_file_system() {
    local report
    if ! report=$(e2fsck -fn "$1" 2>&1); then
        printf '%s\n' "$report" >&2
        fail "the file system in $1 is not sound" "build the disk anew"
    fi
}

# put FILE PATH MODE FS: replaces PATH in the file system FS and proves that it did, because
# debugfs reports failure only in words. It does not follow a symbolic link on the way (/sbin).
put() {
    local file=$1 path=$2 mode=$3 fs=$4
    debugfs -w -f - "$fs" >/dev/null 2>&1 <<COMMANDS
rm $path
write $file $path
set_inode_field $path mode 0100$mode
set_inode_field $path uid 0
set_inode_field $path gid 0
COMMANDS
    debugfs -R "cat $path" "$fs" 2>/dev/null | cmp -s - "$file" ||
        fail "$path could not be written into $fs" "free some space on the disk image or build it larger (--size)"
}

# seed_of TEXT: a number that stands for TEXT.
seed_of() {
    local digits
    digits=$(printf '%s\n' "$1" | sha256sum | cut -c 1-7)
    printf '%s\n' $((16#$digits))
}

# records SEED BYTES: lines as a server's data has them, the same for the same number SEED, and
# about as compressible.
records() {
    perl -e '
        my ($seed, $bytes) = @ARGV;
        srand($seed);
        my $written = 0;
        while ($written < $bytes) {
            my $line = sprintf("%08x customer=%06d order=%08x%08x amount=%d.%02d state=%s\n",
                $written, rand(1e6), rand(2**32), rand(2**32), rand(5000), rand(100),
                (qw(open paid sent closed))[rand 4]);
            $line = substr($line, 0, $bytes - $written);
            print $line;
            $written += length $line;
        }' "$1" "$2"
}
