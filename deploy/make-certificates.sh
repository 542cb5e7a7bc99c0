#!/bin/sh
# A certificate authority and one certificate for each role, for mutual TLS between them; and the secrets that
# docker-compose.yml reads. Existing files are kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/certificates}
mkdir -p "$dir" "$here/secrets"
umask 077

if [ ! -e "$dir/ca.key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=snapferry" \
        -keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null
fi
for name in scheduler media-agent agent; do
    [ -e "$dir/$name.key" ] && continue
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
        -keyout "$dir/$name.key" -out "$dir/$name.csr" 2>/dev/null
    printf 'subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' "$name" \
        >"$dir/$name.ext"
    openssl x509 -req -in "$dir/$name.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 825 \
        -extfile "$dir/$name.ext" -out "$dir/$name.crt" 2>/dev/null
    rm "$dir/$name.csr" "$dir/$name.ext"
done

secret() { [ -e "$here/secrets/$1" ] || printf '%s' "$2" >"$here/secrets/$1"; }
password=$(openssl rand -hex 16)
secret postgres_password "$password"
secret database_url "postgres://snapferry:$(cat "$here/secrets/postgres_password")@postgres:5432/snapferry"
secret amqp_url "amqp://guest:guest@rabbitmq:5672/%2f"
secret operator_token "$(openssl rand -hex 24)"
secret s3_secret "$(openssl rand -hex 16)"
# The containers run as another user.
chmod 644 "$dir"/*.crt "$dir"/*.key "$here"/secrets/*
# The authority's key is nobody's but the maker's.
chmod 600 "$dir/ca.key"
echo "certificates are in $dir, secrets in $here/secrets"
