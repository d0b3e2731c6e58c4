#compdef bootagent
# zsh completion of bootagent: bootagent completion zsh >/usr/share/zsh/vendor-completions/_bootagent
_bootagent() {
    local -a found
    found=("${(f)$(command bootagent complete "${(@)words[2,CURRENT]}" 2>/dev/null)}") ||
        { compset -P '--*=' || compset -P '-[!-]'; _files; return }
    compadd -- $found
}
if [ "$funcstack[1]" = _bootagent ]; then _bootagent; else compdef _bootagent bootagent; fi
