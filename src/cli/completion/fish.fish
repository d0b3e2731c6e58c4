# fish completion of bootagent: bootagent completion fish >/usr/share/fish/vendor_completions.d/bootagent.fish
function __bootagent
    set -l words (commandline -opc)[2..-1] (commandline -ct)
    command bootagent complete $words 2>/dev/null; or __fish_complete_path $words[-1]
end
complete -c bootagent -f -a '(__bootagent)'
