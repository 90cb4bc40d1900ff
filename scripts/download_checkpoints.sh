#!/usr/bin/env bash
# Downloads NVIDIA's Tacotron 2 and WaveGlow checkpoints from NGC, and goes on where it was cut off.
#
#   bash scripts/download_checkpoints.sh [-o FOLDER] [--base-url URL] [NAME...]
#
# NAME           nvidia_tacotron2pyt_fp16_20190427 and nvidia_waveglow256pyt_fp16 [the default], or their later versions
#                nvidia_tacotron2pyt_fp16.pt (19.12.0) and nvidia_waveglow256pyt_fp16.pt (20.01.0), or torch.hub's:
#                nvidia_tacotron2pyt_fp32_20190427, nvidia_waveglowpyt_fp16_20190427, nvidia_waveglowpyt_fp32_20190427
# -o, --output   folder for the checkpoints [default: checkpoints/ in the project's folder]
# --base-url     where the models lie [default: NGC's, or the environment's CHECKPOINTS_URL]
#
# What torch.hub has downloaded before is copied from its cache. NGC publishes no checksums: each file's SHA-256 is
# written down when it is first downloaded (downloads.sha256, beside the files), and every later run checks the files
# against it; so does `sha256sum -c downloads.sha256`. Needs curl.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

show_help_if_asked "$@"
folder=$ROOT/checkpoints
base=${CHECKPOINTS_URL:-https://api.ngc.nvidia.com/v2/models/nvidia}
known=(
    tacotron2_pyt_ckpt_amp/versions/19.09.0/files/nvidia_tacotron2pyt_fp16_20190427
    waveglow_ckpt_amp_256/versions/19.10.0/files/nvidia_waveglow256pyt_fp16
    tacotron2_pyt_ckpt_amp/versions/19.12.0/files/nvidia_tacotron2pyt_fp16.pt
    waveglow_ckpt_amp_256/versions/20.01.0/files/nvidia_waveglow256pyt_fp16.pt
    tacotron2_pyt_ckpt_fp32/versions/19.09.0/files/nvidia_tacotron2pyt_fp32_20190427
    waveglow_ckpt_amp/versions/19.09.0/files/nvidia_waveglowpyt_fp16_20190427
    waveglow_ckpt_fp32/versions/19.09.0/files/nvidia_waveglowpyt_fp32_20190427
)
files=()
while (($#)); do
    case $1 in
        -o | --output) folder=$(flag_value "$@") || exit 2 ;;
        --base-url) base=$(flag_value "$@") || exit 2 ;;
        -*) fail "unknown flag $1 (--help lists the flags)" 2 ;;
        *)
            mapfile -t found < <(printf '%s\n' "${known[@]}" | grep -- "/files/${1//./\\.}\$")
            ((${#found[@]})) || fail "unknown checkpoint $1 (--help lists the names)" 2
            files+=("${found[@]}")
            shift
            continue
            ;;
    esac
    shift 2
done
((${#files[@]})) || files=("${known[@]:0:2}")
[[ $base =~ ^https?:// ]] || fail "--base-url $base: must begin with https:// or http://"
command -v curl >/dev/null || fail "curl is missing: sudo apt-get install curl, then run this again"
mkdir -p -- "$folder" 2>/dev/null && [[ -w $folder ]] || fail "$folder: can't be written; choose another folder with -o"
cd -- "$folder"

# Fetches what is missing of $1 into $2, which exists. Sets STATUS (HTTP's), TYPE and REASON; returns curl's status.
fetch() {
    local answer error status=0 condition=()
    # A file that changed meanwhile is not patched together: it is sent whole, which curl refuses to append (33).
    [[ ! -s $2 || ! -s $2.etag || $(<"$2.etag") == W/* ]] || condition=(-H "If-Range: $(<"$2.etag")")
    [[ -s $2 ]] || rm -f -- "$2.etag"
    error=$(curl --fail --silent --show-error --location --continue-at - --speed-limit 1 --speed-time 30 \
        --etag-save "$2.new-etag" ${condition[@]+"${condition[@]}"} --output "$2" \
        --write-out '%{stderr}\n%{http_code} %{content_type}' -- "$1" 2>&1) || status=$?
    [[ ! -s $2.new-etag ]] || tr -d '\r\n' <"$2.new-etag" >"$2.etag"
    rm -f -- "$2.new-etag"
    answer=${error##*$'\n'} REASON=${error%%$'\n'*}
    STATUS=${answer%% *} TYPE=${answer#* }
    return "$status"
}

# Downloads $1 as $2, in as many attempts as bring it further and three more.
download() {
    local url=$1 name=$2 part=$2.part before failures=0 status
    exec {lock}>>"$part"
    flock --nonblock "$lock" || fail "$folder/$name: is being downloaded by another process; wait for it to end"
    while before=$(stat -c %s -- "$part") && status=0 && { fetch "$url" "$part" || status=$?; } && ((status)); do
        case $status/$STATUS in
            33/* | 22/416) : >"$part" && before=0 ;; # no ranges, another file, or one that is not longer: from the start
            22/401 | 22/403) fail "$url: the server wants a login ($STATUS); download it in a browser and put it at $folder/$name" ;;
            22/404) fail "$url: no such file on the server (404); if it moved, give its new place with --base-url" ;;
            22/429 | 22/5??) ;;
            22/*) fail "$url: the server refused ($STATUS)" ;;
            23/*) fail "$folder/$name: can't be written: free some space, or choose another folder with -o" ;;
            60/* | 77/*) fail "$url: the server's certificate was not accepted: sudo apt-get install ca-certificates" ;;
        esac
        if (($(stat -c %s -- "$part") > before)); then failures=0; fi
        if ((++failures > 3)); then
            [[ -s $part ]] || fail "$url: ${REASON#curl: }; check the network and run again"
            fail "$url: ${REASON#curl: }; $(stat -c %s -- "$part") bytes are kept, run again to go on from there"
        fi
        sleep "$((failures * ${RETRY_SECONDS:-1}))"
    done
    if [[ $TYPE == text/html* ]]; then
        : >"$part"
        fail "$url: the server sent a web page instead of a file; download it in a browser"
    fi
    [[ -s $part ]] || fail "$url: the server sent an empty file; try again later"
    record "$name" "$(sha256sum <"$part")"
    mv -- "$part" "$name"
    rm -f -- "$part.etag"
    exec {lock}>&-
}

remove_empty_parts() {
    local file
    for file in "${files[@]##*/}"; do
        [[ -s $file.part ]] || rm -f -- "$file.part" "$file.part.etag"
    done
}

known_sum() { awk -v name="$1" '$2 == name { print $1 }' downloads.sha256 2>/dev/null || true; }

# Writes down the checksum of a file, or refuses another than the one on record.
record() {
    local known sum=${2%% *}
    known=$(known_sum "$1")
    if [[ -n $known && $known != "$sum" ]]; then
        : >"$1.part"
        fail "$1: its sha256 is $sum, but was $known when it was first downloaded; if it may change, delete $folder/downloads.sha256"
    fi
    [[ -n $known ]] || printf '%s  %s\n' "$sum" "$1" >>downloads.sha256
}

# Prints the size of the file at $1; nothing if the server doesn't say it.
server_size() {
    curl --fail --silent --location --head --max-time 30 -- "$1" | tr -d '\r' |
        awk 'tolower($1) == "content-length:" { print $2 }' | tail -n 1 || true
}

# Copies the file $2, which lies at $1 on the server, from torch.hub's cache; fails where it isn't there whole.
take_from_torch_hub() {
    local cache=${TORCH_HOME:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/torch} found size
    for found in "$cache/checkpoints/$2" "$cache/hub/checkpoints/$2"; do
        [[ -f $found ]] || continue
        size=$(server_size "$1")
        if [[ -n $size && $size != "$(stat -c %s -- "$found")" ]]; then
            echo "Note: $found is not whole, and is passed over"
            continue
        fi
        { cp -- "$found" "$2.copy" && mv -- "$2.copy" "$2"; } || fail "$folder/$2: can't be written: free some space"
        echo "$folder/$2: copied from $found; unverified, as NGC publishes no checksums"
        return
    done
    return 1
}

# Checks a file that is there against its record; of one that was put there by hand only the size can be.
check() {
    local sum size
    sum=$(known_sum "$2")
    if [[ -n $sum ]]; then
        [[ $(sha256sum <"$2") == "$sum "* ]] ||
            fail "$folder/$2: $(stat -c %s -- "$2") bytes, and not those that were first downloaded; delete it and run again"
        echo "$folder/$2: is there, and whole"
        return
    fi
    size=$(server_size "$1")
    if [[ -z $size ]]; then
        echo "$folder/$2: is there; unverified, as it was not downloaded by this script and the server can't be asked"
    elif [[ $size == "$(stat -c %s -- "$2")" ]]; then
        echo "$folder/$2: is there, of the size that the server says; its content is unverified"
    else
        fail "$folder/$2: $(stat -c %s -- "$2") bytes, but $size on the server; delete it and run again"
    fi
}

trap remove_empty_parts EXIT
for file in "${files[@]}"; do
    name=${file##*/}
    if [[ -e $name ]]; then
        check "${base%/}/$file" "$name"
    elif ! take_from_torch_hub "${base%/}/$file" "$name"; then
        echo "Downloading $name"
        download "${base%/}/$file" "$name"
        echo "$folder/$name: $(stat -c %s -- "$name") bytes, sha256 $(known_sum "$name")"
    fi
done
