# bash completion of bootagent: bootagent completion bash >/usr/share/bash-completion/completions/bootagent
_bootagent() {
    local word=${COMP_WORDS[COMP_CWORD]} command= i words
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -c | --config) i=$((i + 1)) ;;
        -*) ;;
        *)
            command=${COMP_WORDS[i]}
            break
            ;;
        esac
    done
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    -c | --config)
        COMPREPLY=($(compgen -f -- "$word"))
        return
        ;;
    esac
    case $command in
    '') words='@COMMANDS@' ;;
    status) words="--json --watch $(_bootagent_names)" ;;
    start | stop | restart) words="--all $(_bootagent_names)" ;;
    logs) words="-f -n bootagent $(_bootagent_names)" ;;
    reload) words=$(_bootagent_names) ;;
    jobs) words=--json ;;
    run) words='-d -S' ;;
    init) words='@SYSTEMS@' ;;
    completion) words='@SHELLS@' ;;
    help) words='@COMMANDS@' ;;
    sha256)
        COMPREPLY=($(compgen -f -- "$word"))
        return
        ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}

_bootagent_names() {
    COLUMNS= command bootagent status 2>/dev/null | awk 'table && !NF { exit } table { print $1 } $1 == "NAME" { table = 1 }'
}

complete -F _bootagent bootagent
