# bash completion for berth

_berth() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local i command='' flags='' values='' operand=0 root=()
    # "--flag=value" is three words to readline.
    [[ $cur == '=' ]] && cur=''
    [[ $prev == '=' ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$command ${COMP_WORDS[i]}" in
            ' --root')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                root=(--root "${COMP_WORDS[i]}")
                ;;
            ' --log' | ' --log-format' | ' --cgroup-manager' | ' --rootless')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'check --destdir')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'checkpoint --image-path' | 'checkpoint --work-path' | 'checkpoint --parent-path' | 'checkpoint --status-fd' | 'checkpoint --page-server' | 'checkpoint --manage-cgroups-mode' | 'checkpoint --empty-ns')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'create --bundle' | 'create -b' | 'create --console-socket' | 'create --pidfd-socket' | 'create --pid-file' | 'create --preserve-fds')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'events --interval')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'exec --console-socket' | 'exec --pidfd-socket' | 'exec --cwd' | 'exec --env' | 'exec -e' | 'exec --user' | 'exec -u' | 'exec --additional-gids' | 'exec -g' | 'exec --process' | 'exec -p' | 'exec --pid-file' | 'exec --process-label' | 'exec --apparmor' | 'exec --cap' | 'exec -c' | 'exec --preserve-fds' | 'exec --cgroup')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'install --name' | 'install --bin-dir' | 'install --containerd-version' | 'install --destdir')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'list --format' | 'list -f')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'ps --format' | 'ps -f')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'restore --console-socket' | 'restore --image-path' | 'restore --work-path' | 'restore --manage-cgroups-mode' | 'restore --bundle' | 'restore -b' | 'restore --pid-file' | 'restore --empty-ns' | 'restore --lsm-profile' | 'restore --lsm-mount-context')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'run --bundle' | 'run -b' | 'run --console-socket' | 'run --pidfd-socket' | 'run --pid-file' | 'run --preserve-fds')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'shims --format' | 'shims -f' | 'shims --socket-dir')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'spec --bundle' | 'spec -b')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'uninstall --destdir')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'update --resources' | 'update -r' | 'update --blkio-weight' | 'update --cpu-period' | 'update --cpu-quota' | 'update --cpu-burst' | 'update --cpu-share' | 'update --cpu-rt-period' | 'update --cpu-rt-runtime' | 'update --cpuset-cpus' | 'update --cpuset-mems' | 'update --kernel-memory' | 'update --kernel-memory-tcp' | 'update --memory' | 'update --cpu-idle' | 'update --memory-reservation' | 'update --memory-swap' | 'update --pids-limit' | 'update --l3-cache-schema' | 'update --mem-bw-schema')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            'upgrade --id' | 'upgrade --binary' | 'upgrade --socket-dir')
                i=$((i + 1))
                [[ ${COMP_WORDS[i]} == '=' ]] && i=$((i + 1))
                ;;
            *' -'*) ;;
            ' '*) command=${COMP_WORDS[i]} ;;
            *) operand=$((operand + 1)) ;;
        esac
    done
    case "$command" in
        '') flags='--debug --log --log-format --root --systemd-cgroup --cgroup-manager --rootless --version -v --help -h' ;;
        check) flags='--json --destdir --help -h' ;;
        checkpoint) flags='--image-path --work-path --parent-path --leave-running --tcp-established --tcp-skip-in-flight --link-remap --ext-unix-sk --shell-job --lazy-pages --status-fd --page-server --file-locks --pre-dump --manage-cgroups-mode --empty-ns --auto-dedup --help -h' ;;
        completion) flags='--help -h' ;;
        create) flags='--bundle -b --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds --help -h' ;;
        delete) flags='--force -f --help -h' ;;
        events) flags='--interval --stats --help -h' ;;
        exec) flags='--console-socket --pidfd-socket --cwd --env -e --tty -t --user -u --additional-gids -g --process -p --detach -d --pid-file --process-label --apparmor --no-new-privs --cap -c --preserve-fds --cgroup --ignore-paused --help -h' ;;
        install) flags='--containerd --docker --podman --crio --k3s --rke2 --all --name --bin-dir --shim --containerd-version --dry-run --restart --force --destdir --help -h' ;;
        kill) flags='--help -h' ;;
        list) flags='--format -f --quiet -q --help -h' ;;
        mounts) flags='--help -h' ;;
        pause) flags='--help -h' ;;
        ps) flags='--format -f --help -h' ;;
        restore) flags='--console-socket --image-path --work-path --tcp-established --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode --bundle -b --detach -d --pid-file --no-subreaper --no-pivot --empty-ns --auto-dedup --lazy-pages --lsm-profile --lsm-mount-context --help -h' ;;
        resume) flags='--help -h' ;;
        run) flags='--bundle -b --console-socket --pidfd-socket --detach -d --keep --pid-file --no-subreaper --no-pivot --no-new-keyring --preserve-fds --help -h' ;;
        shims) flags='--format -f --json --quiet -q --socket-dir --help -h' ;;
        spec) flags='--bundle -b --rootless --help -h' ;;
        start) flags='--help -h' ;;
        state) flags='--help -h' ;;
        tags) flags='--help -h' ;;
        uninstall) flags='--containerd --docker --podman --crio --k3s --rke2 --all --dry-run --restart --force --destdir --help -h' ;;
        unpack) flags='--help -h' ;;
        update) flags='--resources -r --blkio-weight --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-rt-period --cpu-rt-runtime --cpuset-cpus --cpuset-mems --memory --cpu-idle --memory-reservation --memory-swap --pids-limit --l3-cache-schema --mem-bw-schema --help -h' ;;
        upgrade) flags='--all --id --binary --check --socket-dir --help -h' ;;
        features) flags='--help -h' ;;
    esac
    case "$command $prev" in
        ' --log') values='' ;;
        ' --log-format') values='text json' ;;
        ' --root') values='' ;;
        ' --cgroup-manager') values='cgroupfs systemd disabled' ;;
        ' --rootless') values='true false auto' ;;
        'check --destdir') values='' ;;
        'checkpoint --image-path') values='' ;;
        'checkpoint --work-path') values='' ;;
        'checkpoint --parent-path') values='' ;;
        'checkpoint --status-fd') values='' ;;
        'checkpoint --page-server') values='' ;;
        'checkpoint --manage-cgroups-mode') values='s part in cgroups:  ,  ,   or  ; by default   with cgroup v2, else  ' ;;
        'checkpoint --empty-ns') values='' ;;
        'create --bundle' | 'create -b') values='' ;;
        'create --console-socket') values='' ;;
        'create --pidfd-socket') values='' ;;
        'create --pid-file') values='' ;;
        'create --preserve-fds') values='' ;;
        'events --interval') values='' ;;
        'exec --console-socket') values='' ;;
        'exec --pidfd-socket') values='' ;;
        'exec --cwd') values='' ;;
        'exec --env' | 'exec -e') values='' ;;
        'exec --user' | 'exec -u') values='' ;;
        'exec --additional-gids' | 'exec -g') values='' ;;
        'exec --process' | 'exec -p') values='' ;;
        'exec --pid-file') values='' ;;
        'exec --process-label') values='' ;;
        'exec --apparmor') values='' ;;
        'exec --cap' | 'exec -c') values='' ;;
        'exec --preserve-fds') values='' ;;
        'exec --cgroup') values='' ;;
        'install --name') values='' ;;
        'install --bin-dir') values='' ;;
        'install --containerd-version') values='' ;;
        'install --destdir') values='' ;;
        'list --format' | 'list -f') values='table json' ;;
        'ps --format' | 'ps -f') values='table json' ;;
        'restore --console-socket') values='' ;;
        'restore --image-path') values='' ;;
        'restore --work-path') values='' ;;
        'restore --manage-cgroups-mode') values='s part in cgroups:  ,  ,   or  ; by default   with cgroup v2, else  ' ;;
        'restore --bundle' | 'restore -b') values='' ;;
        'restore --pid-file') values='' ;;
        'restore --empty-ns') values='' ;;
        'restore --lsm-profile') values='apparmor:NAME selinux:LABEL' ;;
        'restore --lsm-mount-context') values='' ;;
        'run --bundle' | 'run -b') values='' ;;
        'run --console-socket') values='' ;;
        'run --pidfd-socket') values='' ;;
        'run --pid-file') values='' ;;
        'run --preserve-fds') values='' ;;
        'shims --format' | 'shims -f') values='table json' ;;
        'shims --socket-dir') values='' ;;
        'spec --bundle' | 'spec -b') values='' ;;
        'uninstall --destdir') values='' ;;
        'update --resources' | 'update -r') values='' ;;
        'update --blkio-weight') values='' ;;
        'update --cpu-period') values='' ;;
        'update --cpu-quota') values='' ;;
        'update --cpu-burst') values='' ;;
        'update --cpu-share') values='' ;;
        'update --cpu-rt-period') values='' ;;
        'update --cpu-rt-runtime') values='' ;;
        'update --cpuset-cpus') values='' ;;
        'update --cpuset-mems') values='' ;;
        'update --memory') values='' ;;
        'update --cpu-idle') values='' ;;
        'update --memory-reservation') values='' ;;
        'update --memory-swap') values='' ;;
        'update --pids-limit') values='' ;;
        'update --l3-cache-schema') values='' ;;
        'update --mem-bw-schema') values='' ;;
        'upgrade --id') values='' ;;
        'upgrade --binary') values='' ;;
        'upgrade --socket-dir') values='' ;;
        *)
            case "$cur:$command $operand" in
                -*) values=$flags ;;
                *:' 0' | *:'help 0') values='check checkpoint completion create delete events exec install kill list mounts pause ps restore resume run shims spec start state tags uninstall unpack update upgrade features help' ;;
                *:'kill 1') values=$(compgen -A signal -X '*JUNK*' SIG) ;;
                *:'checkpoint 0' | *:'delete 0' | *:'events 0' | *:'exec 0' | *:'kill 0' | *:'pause 0' | *:'ps 0' | *:'resume 0' | *:'start 0' | *:'state 0' | *:'update 0')
                    values=$(berth "${root[@]}" list -q 2> /dev/null)
                    ;;
            esac
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur")
}

complete -o default -F _berth berth
