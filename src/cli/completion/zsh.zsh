#compdef bootagent
# zsh completion of bootagent: bootagent completion zsh >/usr/share/zsh/vendor-completions/_bootagent
_bootagent_names() {
    local -a names
    names=(${(f)"$(COLUMNS= command bootagent status 2>/dev/null |
        awk 'table && !NF { exit } table { print $1 } $1 == "NAME" { table = 1 }')"})
    (( ${#names} )) && compadd -a names
}

_bootagent() {
    local command= i
    for ((i = 2; i < CURRENT; i++)); do
        case ${words[i]} in
        -c | --config) ((i++)) ;;
        -*) ;;
        *)
            command=${words[i]}
            break
            ;;
        esac
    done
    case ${words[CURRENT - 1]} in
    -c | --config)
        _files
        return
        ;;
    esac
    case $command in
    '') compadd @COMMANDS@ ;;
    status) compadd -- --json --watch; _bootagent_names ;;
    start | stop | restart) compadd -- --all; _bootagent_names ;;
    logs) compadd -- -f -n bootagent; _bootagent_names ;;
    reload) _bootagent_names ;;
    jobs) compadd -- --json ;;
    run) compadd -- -d -S ;;
    init) compadd @SYSTEMS@ ;;
    completion) compadd @SHELLS@ ;;
    help) compadd @COMMANDS@ ;;
    sha256) _files ;;
    esac
}

if [ "$funcstack[1]" = _bootagent ]; then
    _bootagent "$@"
else
    compdef _bootagent bootagent
fi
