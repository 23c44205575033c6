#!/bin/sh
# Creates the files in secrets/ that the compose files mount. Other users of the machine cannot open the folder; the files
# themselves are readable, because each container reads them with its own user ID.
set -eu
cd "$(dirname "$0")"
umask 022
mkdir -m 700 secrets
random() {
    head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n'
}
random > secrets/pepper
password=$(random)
printf %s "$password" > secrets/postgres_password
echo "postgresql://keys:$password@postgres/keys" > secrets/backend_postgres
echo "redis://keys:$password@redis:6379/0" > secrets/backend
cat > secrets/redis_users <<END
user default off
user keys on >$password ~basicauth:1:* +get +set +del +exists +eval +expire +hget +hset +hdel +hgetall +hexists +hincrby +hlen +zadd +zrem +zrangebylex +xadd +xrange +xrevrange +config|get
END
