# fish completion of bootagent: bootagent completion fish >/usr/share/fish/vendor_completions.d/bootagent.fish
function __bootagent_names
    COLUMNS= command bootagent status 2>/dev/null | awk 'table && !NF { exit } table { print $1 } $1 == "NAME" { table = 1 }'
end

complete -c bootagent -f
complete -c bootagent -s c -l config -r -F
complete -c bootagent -n __fish_use_subcommand -a '@COMMANDS@'
complete -c bootagent -n '__fish_seen_subcommand_from status start stop restart logs reload' -a '(__bootagent_names)'
complete -c bootagent -n '__fish_seen_subcommand_from status jobs' -l json
complete -c bootagent -n '__fish_seen_subcommand_from status' -l watch
complete -c bootagent -n '__fish_seen_subcommand_from start stop restart' -l all
complete -c bootagent -n '__fish_seen_subcommand_from logs' -s f -l follow
complete -c bootagent -n '__fish_seen_subcommand_from logs' -s n -l lines -x
complete -c bootagent -n '__fish_seen_subcommand_from logs' -a bootagent
complete -c bootagent -n '__fish_seen_subcommand_from run' -s d -l background
complete -c bootagent -n '__fish_seen_subcommand_from init' -a '@SYSTEMS@'
complete -c bootagent -n '__fish_seen_subcommand_from completion' -a '@SHELLS@'
complete -c bootagent -n '__fish_seen_subcommand_from help' -a '@COMMANDS@'
complete -c bootagent -n '__fish_seen_subcommand_from sha256' -F
