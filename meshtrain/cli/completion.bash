# Completion of meshtrain for bash. Made by: meshtrain completion bash
# It goes to ~/.local/share/bash-completion/completions/meshtrain, or is sourced.

# What may follow a command: each value is OPTION|KIND, or OPTION|=WORD,WORD.
_meshtrain_table() {
    commands=() options=() values=() arguments=() repeats=
    case "$1" in
@TABLE@
    esac
}

# The kind of what an option takes; fails for one that takes nothing.
_meshtrain_value() {
    local value
    for value in ${values[@]+"${values[@]}"}; do
        if [[ "${value%%|*}" == "$1" ]]; then
            kind="${value#*|}"
            return 0
        fi
    done
    return 1
}

_meshtrain_names() {
    local name about prefix="" breaks="${COMP_WORDBREAKS//[^=:]/}"
    # For bash the word begins after the last of these, and names have them.
    if [[ -n "$breaks" ]]; then prefix="${cur%"${cur##*["$breaks"]}"}"; fi
    while IFS=$'\t' read -r name about; do
        if [[ "$name" == "$cur"* ]]; then COMPREPLY+=("${name#"$prefix"}"); fi
    done < <("$program" __names "$kind" "$cur" ${asked[@]+"${asked[@]}"} 2>/dev/null)
    # A name that goes on gets no blank.
    if [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *[/,] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

_meshtrain_words() {
    local word
    for word in "$@"; do
        if [[ "$word" == "$cur"* ]]; then COMPREPLY+=("$word"); fi
    done
}

_meshtrain_files() {
    # Bash's own completion of paths knows quotes and blanks.
    if compopt -o "$1" 2>/dev/null; then return; fi
    local path
    while IFS= read -r path; do COMPREPLY+=("$path"); done < <(compgen "$2" -- "$cur")
}

_meshtrain() {
    local line="${COMP_LINE:0:COMP_POINT}" program cur="" path="" word kind="" repeats
    local -a words commands options values arguments asked
    local i=1 place=0 count
    COMPREPLY=()
    # Split at blanks alone: bash parts words at = and : too.
    read -r -a words <<< "$line"
    count=${#words[@]}
    if [[ "$line" != *[[:space:]] ]]; then
        count=$((count - 1))
        cur="${words[count]}"
    fi
    program="${words[0]/#\~/$HOME}"
    asked=()
    _meshtrain_table ""
    while ((i < count)); do
        word="${words[i]}"
        i=$((i + 1))
        if [[ "$word" == -* ]]; then
            if [[ "$word" != *=* ]] && _meshtrain_value "$word"; then
                if [[ -z "$path" && ("$word" == --master || "$word" == --home) ]]; then
                    asked+=("$word" "${words[i]}")
                fi
                i=$((i + 1))
            fi
        elif [[ ${#commands[@]} -gt 0 && " ${commands[*]} " == *" $word "* ]]; then
            path="${path:+$path }$word"
            place=0
            _meshtrain_table "$path"
        else
            place=$((place + 1))
        fi
    done
    kind=""
    if ((i > count)); then
        _meshtrain_value "${words[count - 1]}"
    elif [[ "$cur" == -* ]]; then
        _meshtrain_words ${options[@]+"${options[@]}"}
        return
    elif [[ ${#commands[@]} -gt 0 ]]; then
        _meshtrain_words "${commands[@]}"
        return
    elif ((place < ${#arguments[@]})); then
        kind="${arguments[place]}"
    elif [[ -n "$repeats" ]]; then
        kind="${arguments[${#arguments[@]} - 1]}"
    fi
    case "$kind" in
    =*)
        local IFS=','
        _meshtrain_words ${kind#=}
        ;;
    file) _meshtrain_files default -f ;;
    folder) _meshtrain_files dirnames -d ;;
    @LIVE@) _meshtrain_names ;;
    esac
}

complete -F _meshtrain meshtrain
