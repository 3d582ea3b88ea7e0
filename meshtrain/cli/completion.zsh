#compdef meshtrain
# Completion of meshtrain for zsh. Made by: meshtrain completion zsh
# It goes, as _meshtrain, into a folder of $fpath; or it is sourced after compinit.

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
    for value in $values; do
        if [[ "${value%%|*}" == "$1" ]]; then
            kind="${value#*|}"
            return 0
        fi
    done
    return 1
}

_meshtrain_names() {
    local name about
    local -a whole whole_told open open_told
    while IFS=$'\t' read -r name about; do
        if [[ "$name" == *[/,] ]]; then
            open+=("$name") open_told+=("$name${about:+  -- $about}")
        else
            whole+=("$name") whole_told+=("$name${about:+  -- $about}")
        fi
    done < <("$program" __names "$kind" "$cur" $asked 2>/dev/null)
    # A name that goes on gets no blank.
    if (( $#open )); then compadd -l -S '' -d open_told -a open; fi
    if (( $#whole )); then compadd -l -d whole_told -a whole; fi
}

_meshtrain() {
    emulate -L zsh
    local program="${(Q)words[1]/#\~/$HOME}" cur="${(Q)PREFIX}" path_told="" word kind="" repeats
    local -a commands options values arguments asked
    local -i i=2 place=0
    _meshtrain_table ""
    while (( i < CURRENT )); do
        word="${(Q)words[i]}"
        i+=1
        if [[ "$word" == -* ]]; then
            if [[ "$word" != *=* ]] && _meshtrain_value "$word"; then
                if [[ -z "$path_told" && ( "$word" == --master || "$word" == --home ) ]]; then
                    asked+=("$word" "${(Q)words[i]}")
                fi
                i+=1
            fi
        elif (( ${commands[(I)$word:*]} )); then
            path_told="${path_told:+$path_told }$word"
            place=0
            _meshtrain_table "$path_told"
        else
            place+=1
        fi
    done
    kind=""
    if (( i > CURRENT )); then
        _meshtrain_value "${(Q)words[CURRENT-1]}"
    elif [[ "$cur" == -* ]]; then
        _describe -o 'option' options
        return
    elif (( $#commands )); then
        _describe 'command' commands
        return
    elif (( place < $#arguments )); then
        kind="${arguments[place+1]}"
    elif [[ -n "$repeats" ]]; then
        kind="${arguments[-1]}"
    fi
    case "$kind" in
    '='*) compadd -- ${(s:,:)${kind#=}} ;;
    file) _files ;;
    folder) _files -/ ;;
    @LIVE@) _meshtrain_names ;;
    esac
}

if [[ "$funcstack[1]" == _meshtrain ]]; then
    _meshtrain "$@"
elif (( $+functions[compdef] )); then
    compdef _meshtrain meshtrain
fi
