seq 1 300000 > plain
openssl dgst -sha256 plain
openssl enc -aes-256-cbc -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff \
    -iv 00112233445566778899aabbccddeeff -in plain -out secret
cksum < secret
openssl enc -d -aes-256-cbc -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff \
    -iv 00112233445566778899aabbccddeeff -in secret | cmp - plain
openssl genrsa -out key.pem 2048 2> /dev/null
openssl rsa -in key.pem -check -noout
openssl dgst -sha256 -sign key.pem -out signature plain
openssl rsa -in key.pem -pubout -out public.pem 2> /dev/null
openssl dgst -sha256 -verify public.pem -signature signature plain
