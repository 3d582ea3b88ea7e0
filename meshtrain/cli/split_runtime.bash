# --- what every script does; the cells come at the end -----------------------------------
set -u
set -m # each cell is a process group of its own, so that all of it can be ended
shopt -u patsub_replacement 2>/dev/null # a & in a path is no pattern

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 2
}
usage() {
  cat <<'USAGE'
Usage: SCRIPT [--gpus LIST] [--results FOLDER] [--code FOLDER]
              [--base [HASH=]FOLDER] [--from FOLDER] [--input SOURCE=FOLDER]

  --gpus LIST          sets CUDA_VISIBLE_DEVICES: 0, or 0,1; "" hides every GPU
  --results FOLDER     where results go; what lies there already is not run again
  --code FOLDER        the checked-out code; not given: the folder it is run in
  --base FOLDER        a base that is trained already: the folder with its files.
                       With several bases HASH=FOLDER, once for each
  --from FOLDER        the model that the base continues from, where it does
  --input SOURCE=FOLDER
                       where an input lies on this host: its data set, or its path

PYTHON names the Python that has meshtrain[train], for built-in training.
Run it again after a crash, or after a failure: what is done is kept.
USAGE
}

((BASH_VERSINFO[0] >= 4)) || die "it needs bash 4 or newer, this is $BASH_VERSION"
command -v flock >/dev/null || die "it needs flock: install util-linux"

results=$DEFAULT_RESULTS code=$PWD python=${PYTHON:-python3} from=
declare -A base_at=() input_at=() base_failed=()
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --gpus | --results | --code | --base | --from | --input)
      (($# > 1)) || die "$1 needs a value; see --help"
      ;;
    *) die "what is $1? See --help" ;;
  esac
  case $1 in
    --gpus)
      [[ $2 =~ ^([0-9A-Za-z:/-]+(,[0-9A-Za-z:/-]+)*)?$ ]] || die "--gpus $2 is no list of GPUs: write 0 or 0,1"
      export CUDA_VISIBLE_DEVICES=$2 CUDA_DEVICE_ORDER=PCI_BUS_ID
      ;;
    --results) results=$2 ;;
    --code) code=$2 ;;
    --from) from=$2 ;;
    --base)
      if [[ $2 == *=* ]]; then
        base_at[${2%%=*}]=${2#*=}
      else
        ((${#BASES[@]} == 1)) || die "there are ${#BASES[@]} bases: say which, --base HASH=FOLDER; ${BASES[*]}"
        base_at[${BASES[0]}]=$2
      fi
      ;;
    --input)
      [[ $2 == *=* ]] || die "--input $2: write --input SOURCE=FOLDER"
      input_at[${2%%=*}]=${2#*=}
      ;;
  esac
  shift 2
done

whole() { # FOLDER: its whole path; what can't stand in a file of ours is refused
  local path
  path=$(cd -- "$1" 2>/dev/null && pwd -P) || die "$1 is no folder that can be entered"
  [[ $path != *[[:cntrl:]]* ]] || die "the path of $1 has a control character in it"
  printf '%s' "$path"
}
mkdir -p -- "$results" || die "the folder $results can't be made: name another with --results"
results=$(whole "$results") || exit 2
code=$(whole "$code") || exit 2
[[ -z $from ]] || from=$(whole "$from") || exit 2
for key in "${!base_at[@]}"; do
  known=
  for hash in ${BASES[@]+"${BASES[@]}"}; do
    [[ $hash == "$key"* ]] && known=$hash
  done
  [[ -n $known ]] || die "--base: no base of this script has the hash $key; ${BASES[*]-there is none}"
  folder=$(whole "${base_at[$key]}") || exit 2
  base_at[$known]=$folder
done
for key in "${!input_at[@]}"; do
  input_at[$key]=$(whole "${input_at[$key]}") || exit 2
done

# Results of another sweep, or of other code, are not mixed with these.
if [[ -e $results/sweep.json ]] && [[ $(<"$results/sweep.json") != "$SWEEP_JSON" ]]; then
  die "$results holds results of another sweep, or of another state of its file or code: name another with --results"
fi
printf '%s\n' "$SWEEP_JSON" >"$results/.sweep.json.$$" && mv -f -- "$results/.sweep.json.$$" "$results/sweep.json" ||
  die "$results can't be written"
printf '*\n' >"$results/.gitignore" # results are no code

# Held by this script and by what it starts: a cell that outlived its script is not begun twice.
exec 9>"$results/.$SCRIPT.lock"
flock -n 9 || die "it runs already, or a cell of an earlier run still does: end that first ($(cat "$results/.$SCRIPT.pid" 2>/dev/null))"

child= total=0 done_now=0 there=0 failures=()
stop() {
  trap '' INT TERM HUP
  if [[ -n $child ]]; then
    kill -TERM -- "-$child" 2>/dev/null
    for ((tries = 0; tries < 100; tries++)); do
      kill -0 -- "-$child" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$child" 2>/dev/null
  fi
  say "stopped; run it again to go on"
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP

quoted() { # for a shell
  local mark="'" escaped="'\\''"
  printf "'%s'" "${1//$mark/$escaped}"
}
json() { # a path as JSON; empty is null
  [[ -n $1 ]] || {
    printf null
    return
  }
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}
filled() { # TEXT HOW: the folders of this run in place of their marks; HOW is quoted or plain
  local text=$1 name value
  for name in output base from code prepared; do
    value=${!name}
    [[ $2 == plain ]] || value=$(quoted "$value")
    text=${text//"$MARK$name$MARK"/$value}
  done
  for name in "${!SOURCES[@]}"; do
    value=${input_at[${SOURCES[name]}]}
    [[ $2 == plain ]] || value=$(quoted "$value")
    text=${text//"${MARK}input$name$MARK"/$value}
  done
  printf '%s' "$text"
}

# One run: FOLDER NAME JOB_ID TIMEOUT_S CHECKPOINT_S KIND(command|training) WORK RECIPE ENV...
# Its exit code goes to FOLDER/exit_code last of all: without that file nothing counts.
run() {
  local folder=$1 name=$2 job_id=$3 timeout_s=$4 checkpoint_s=$5 kind=$6 work=$7 recipe=$8
  shift 8
  local output=$folder/output resume= checkpoint= line cwd exit_code variable started=$SECONDS
  local variables=() limit=()
  rm -rf -- "$folder/exit_code" "$output" "$folder/failure.json" "$folder/metrics.jsonl"
  mkdir -p -- "$output" || die "$output can't be made"
  [[ ! -e $folder/log ]] || mv -f -- "$folder/log" "$folder/log.before"
  if [[ -n $checkpoint_s ]]; then
    checkpoint=$folder/checkpoint resume=$folder/resume
    if [[ -n $(ls -A -- "$checkpoint" 2>/dev/null) ]]; then
      rm -rf -- "$resume"
      mv -- "$checkpoint" "$resume"
    fi
    mkdir -p -- "$checkpoint"
    [[ -d $resume ]] || resume=
  fi
  variables=(
    "MESHTRAIN_JOB=$job_id" "MESHTRAIN_NAME=$name" "MESHTRAIN_OUTPUT=$output"
    "MESHTRAIN_METRICS=$folder/metrics.jsonl" "MESHTRAIN_FAILURE=$folder/failure.json"
  )
  [[ -z $base ]] || variables+=("MESHTRAIN_BASE=$base")
  [[ -z $checkpoint ]] || variables+=("MESHTRAIN_CHECKPOINT=$checkpoint" "MESHTRAIN_CHECKPOINT_EVERY_S=$checkpoint_s")
  [[ -z $resume ]] || variables+=("MESHTRAIN_RESUME=$resume")
  for variable in "$@"; do
    variables+=("$(filled "$variable" plain)")
  done
  [[ -z $timeout_s ]] || limit=(timeout --kill-after=10 "$timeout_s")
  if [[ $kind == training ]]; then
    printf '{"config":%s,"recipe_hash":%s,"output":%s,"base":%s,"metrics":%s,"failure":%s,"checkpoint":%s,"checkpoint_every_s":%s,"resume":%s}\n' \
      "$work" "$(json "$recipe")" "$(json "$output")" "$(json "$base")" \
      "$(json "$folder/metrics.jsonl")" "$(json "$folder/failure.json")" \
      "$(json "$checkpoint")" "${checkpoint_s:-null}" "$(json "$resume")" >"$folder/request.json"
    line="exec $(quoted "$python") -m meshtrain.training.child $(quoted "$folder/request.json")"
  else
    line=$(filled "$work" quoted)
  fi
  cwd=$output
  [[ $NEEDS_CODE == 0 ]] || cwd=$code
  (cd -- "$cwd" && exec env "${variables[@]}" ${limit[@]+"${limit[@]}"} /bin/sh -c "$line") \
    >"$folder/log" 2>&1 </dev/null &
  child=$!
  printf 'process group %s: %s\n' "$child" "$name" >"$results/.$SCRIPT.pid"
  wait "$child" 2>/dev/null
  exit_code=$?
  child=
  rm -f -- "$results/.$SCRIPT.pid"
  if ((exit_code == 0)); then
    rm -rf -- "$folder/checkpoint" "$folder/resume"
  fi
  printf '{"exit_code":%s,"host":%s,"seconds":%s,"gpus":%s}\n' "$exit_code" \
    "$(json "${HOSTNAME-}")" "$((SECONDS - started))" "$(json "${CUDA_VISIBLE_DEVICES-}")" >"$folder/run.json"
  # What it left is on the disk before it is said to be there.
  find "$folder" \( -type f -o -type d \) -exec sync -- {} + 2>/dev/null
  printf '%s\n' "$exit_code" >"$folder/.exit_code" && mv -f -- "$folder/.exit_code" "$folder/exit_code" ||
    die "$folder can't be written"
  return "$exit_code"
}

is_done() { [[ -f $1/exit_code ]] && [[ $(<"$1/exit_code") == 0 ]]; }

# prepare KEY LINE ENV...: what a `prepare` fills, once for a folder of results; sets $prepared
prepare() {
  local key=$1 line=$2 folder=$results/prepared/$1 base=
  shift 2
  prepared=$folder/output
  is_done "$folder" && return
  mkdir -p -- "$folder"
  exec 7>"$folder.lock"
  flock 7
  if ! is_done "$folder"; then
    say "  prepares ${key:0:8}"
    run "$folder" "prepare/$key" "prepare-$key" '' '' command "$line" '' "$@"
  fi
  exec 7>&-
  is_done "$folder"
}

# make_base HASH LABEL JOB_ID TIMEOUT_S CHECKPOINT_S KIND WORK HAS_PARENT PREPARE ENV...: sets $base
make_base() {
  local hash=$1 label=$2 job_id=$3 timeout_s=$4 checkpoint_s=$5 kind=$6 work=$7 has_parent=$8
  local preparation=$9 folder=$results/bases/$1 prepared=
  shift 9
  if [[ -n ${base_at[$hash]-} ]]; then
    base=${base_at[$hash]}
    return 0
  fi
  base=
  [[ -z ${base_failed[$hash]-} ]] || return 1
  mkdir -p -- "$folder"
  # Another script with the same folder of results may train it now.
  exec 8>"$folder.lock"
  flock 8
  if ! is_done "$folder"; then
    if [[ $has_parent == 1 && -z $from ]]; then
      die "base ${hash:0:8} continues from another: say --from FOLDER, or --base FOLDER where it is trained already"
    fi
    if [[ -n $preparation ]] && ! "prepare_$preparation"; then
      exec 8>&-
      base_failed[$hash]=1
      return 1
    fi
    say "  trains base ${hash:0:8}  $label"
    [[ $has_parent == 0 ]] || base=$from
    run "$folder" "base/$hash" "$job_id" "$timeout_s" "$checkpoint_s" "$kind" "$work" "$hash" "$@"
  fi
  exec 8>&-
  base=
  if ! is_done "$folder"; then
    base_failed[$hash]=1
    say "  base ${hash:0:8} failed: see $folder/log"
    return 1
  fi
  base=$folder/output
}

# cell FOLDER NAME JOB_ID BASE TIMEOUT_S CHECKPOINT_S KIND WORK JSON PREPARE ENV...
cell() {
  local folder=$results/$1 name=$2 job_id=$3 recipe=$4 timeout_s=$5 checkpoint_s=$6 kind=$7 work=$8
  local document=$9 preparation=${10} base= prepared= started=$SECONDS
  shift 10
  ((total += 1))
  if is_done "$folder"; then
    ((there += 1))
    return
  fi
  say "[$total/$CELLS] $name"
  mkdir -p -- "$folder"
  printf '%s\n' "$document" >"$folder/cell.json"
  if [[ -n $recipe ]] && ! "base_$recipe"; then
    printf 'base failed\n' >"$folder/exit_code"
    failures+=("$name: its base failed")
    return
  fi
  if [[ -n $preparation ]] && ! "prepare_$preparation"; then
    printf 'prepare failed\n' >"$folder/exit_code"
    failures+=("$name: its prepare failed, see $results/prepared/$preparation/log")
    return
  fi
  if run "$folder" "$name" "$job_id" "$timeout_s" "$checkpoint_s" "$kind" "$work" "$recipe" "$@"; then
    ((done_now += 1))
    say "  done in $((SECONDS - started)) s"
  else
    failures+=("$name: exit code $(<"$folder/exit_code"), see $folder/log")
    say "  failed, exit code $(<"$folder/exit_code"): see $folder/log"
  fi
}

if ((NEEDS_TRAINER)); then
  "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("meshtrain") and u.find_spec("torch")))' ||
    die "$python has no meshtrain[train]: install it there, or name another Python with PYTHON="
fi
for name in ${SOURCES[@]+"${SOURCES[@]}"}; do
  # A path on a share is where it is, unless it is somewhere else here.
  [[ -n ${input_at[$name]-} || $name != /* ]] || input_at[$name]=$name
  [[ -n ${input_at[$name]-} ]] || die "say where the data set $name lies on this host: --input $name=FOLDER"
  [[ -e ${input_at[$name]} ]] || die "the input ${input_at[$name]} is not there: say --input $name=FOLDER"
done
say "$SCRIPT: $CELLS cells, results in $results"
