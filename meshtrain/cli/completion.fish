# Completion of meshtrain for fish. Made by: meshtrain completion fish
# It goes to ~/.config/fish/completions/meshtrain.fish

# What may follow a command: each value is OPTION|KIND, or OPTION|=WORD,WORD.
function __meshtrain_table
    set -g __meshtrain_commands
    set -g __meshtrain_options
    set -g __meshtrain_values
    set -g __meshtrain_arguments
    set -g __meshtrain_repeats
    switch "$argv[1]"
@TABLE@
    end
end

# The kind of what an option takes; fails for one that takes nothing.
function __meshtrain_value
    for value in $__meshtrain_values
        set -l parts (string split -m 1 '|' -- $value)
        if test "$parts[1]" = "$argv[1]"
            echo -- $parts[2]
            return 0
        end
    end
    return 1
end

function __meshtrain_is_command
    for command in $__meshtrain_commands
        if test (string split -m 1 \t -- $command)[1] = "$argv[1]"
            return 0
        end
    end
    return 1
end

function __meshtrain_complete
    set -l words (commandline -opc)
    set -l cur (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -l path
    set -l asked
    set -l kind
    set -l place 1
    set -l i 2
    set -l count (count $words)
    __meshtrain_table ""
    while test $i -le $count
        set -l word $words[$i]
        set i (math $i + 1)
        if string match -q -- '-*' $word
            if not string match -q -- '*=*' $word; and __meshtrain_value $word >/dev/null
                if test -z "$path"; and contains -- $word --master --home; and test $i -le $count
                    set -a asked $word $words[$i]
                end
                set i (math $i + 1)
            end
        else if __meshtrain_is_command $word
            set path (string trim -- "$path $word")
            set place 1
            __meshtrain_table $path
        else
            set place (math $place + 1)
        end
    end
    if test $i -gt (math $count + 1)
        set kind (__meshtrain_value $words[$count])
    else if string match -q -- '-*' $cur
        string join -- \n $__meshtrain_options
        return
    else if test (count $__meshtrain_commands) -gt 0
        string join -- \n $__meshtrain_commands
        return
    else if test $place -le (count $__meshtrain_arguments)
        set kind $__meshtrain_arguments[$place]
    else if test -n "$__meshtrain_repeats"
        set kind $__meshtrain_arguments[-1]
    end
    switch "$kind"
        case '=*'
            string split , -- (string sub -s 2 -- $kind)
        case file
            __fish_complete_path $cur
        case folder
            __fish_complete_directories $cur
        case @LIVE@
            $program __names $kind "$cur" $asked 2>/dev/null
    end
end

complete -c meshtrain -e
complete -c meshtrain -f -a '(__meshtrain_complete)'
