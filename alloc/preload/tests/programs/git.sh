export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_CONFIG_NOSYSTEM=1
git init -q -b trunk repo
cd repo
for i in $(seq 1 12); do
    seq $i 3 $((i * 4000)) > "file$((i % 4))"
    seq 1 $i > "small$i"
    git add .
    GIT_AUTHOR_DATE="2020-01-01T00:00:$((i + 10))Z" GIT_COMMITTER_DATE="2020-01-01T00:00:$((i + 10))Z" \
        git commit -q -m "commit $i"
done
git repack -q -a -d --threads=2
git fsck --strict 2>&1
git log -p --stat | cksum
git rev-parse HEAD
git cat-file --batch-check --batch-all-objects
git blame file1 | cksum
