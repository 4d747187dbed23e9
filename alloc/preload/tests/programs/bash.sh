bash -c '
    declare -A seen
    for i in {1..150}; do
        x=$(echo "$i $(printf "%s" "$((i * i))")" | { read -r a b; echo "$((a + b))"; })
        seen[$x]=$i
        list+="$x,"
    done
    echo "$list ${#seen[@]}"
    text=$(printf "%060000d" 7)
    echo "${#text} ${text//0/ab}" | cksum
    (exec 3>&- 4>&-; wait; (sleep 0 & wait); echo done)
    cat <(echo one) <(echo two)
'
