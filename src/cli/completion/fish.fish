# fish completion of bootagent: bootagent completion fish >/usr/share/fish/vendor_completions.d/bootagent.fish
function __bootagent
    set -l words (commandline -opc)[2..-1] (commandline -ct)
    command bootagent complete $words 2>/dev/null; and return
    set -l option (string match -r -- '^(?:--[^=]*=|-[^-])' $words[-1])
    set -l path (string replace -r -- '^(?:--[^=]*=|-[^-])' '' $words[-1])
    for found in (__fish_complete_path "$path")
        echo "$option$found"
    end
end
complete -c bootagent -f -a '(__bootagent)'
