perl -e '
    my %h; my $s = "";
    for my $i (1 .. 60000) { $h{"k$i"} = [$i, "v" x ($i % 50)]; $s .= chr(33 + $i % 90); }
    $s =~ s/([a-m]+)/uc($1) . $1/ge;
    my @k = sort { $h{$a}[1] cmp $h{$b}[1] || $a cmp $b } keys %h;
    print join(",", @k[0 .. 99]), "\n", length($s), " ", unpack("%32C*", $s), "\n";
    for my $i (1 .. 5) { my $pid = fork; if (!$pid) { my $x = "y" x 3000000; exit($x =~ /z/ ? 1 : 0); } waitpid($pid, 0); print "$?\n"; }
'
