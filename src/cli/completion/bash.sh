# bash completion of bootagent: bootagent completion bash >/usr/share/bash-completion/completions/bootagent
_bootagent() {
    local IFS=$'\n'
    COMPREPLY=($(command bootagent complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)) || compopt -o default
}
complete -F _bootagent bootagent
