{{- define "headrace.redis.name" -}}
{{- include "headrace.fullname" . }}-redis
{{- end -}}

{{- define "headrace.redis.address" -}}
{{- with .Values.redis.external.address -}}
{{- . -}}
{{- else -}}
redis://{{ include "headrace.redis.name" . }}.{{ .Release.Namespace }}.svc:6379/0
{{- end -}}
{{- end -}}

{{- define "headrace.redis.port" -}}
{{- default "6379" (include "headrace.redis.address" . | regexFind ":[0-9]+([/?]|$)" | trimAll ":/?") -}}
{{- end -}}

{{- define "headrace.redis.secretName" -}}
{{- if and .Values.redis.external.address (not .Values.redis.existingSecret) -}}
{{- fail "redis.external.address needs redis.existingSecret: a Secret with the keys operator-url and runner-key (see values.yaml)" -}}
{{- end -}}
{{- default (include "headrace.redis.name" .) .Values.redis.existingSecret -}}
{{- end -}}

{{/*
Passwords, made once: what the cluster already has is kept. Several templates ask, and they must hear the same, so the first
answer is put aside in .Values.
*/}}
{{- define "headrace.redis.passwords" -}}
{{- if not (hasKey .Values.redis "generated") -}}
{{- $kept := dict -}}
{{- with lookup "v1" "Secret" .Release.Namespace (include "headrace.redis.name" .) -}}
{{- range $key, $value := .data -}}
{{- $_ := set $kept $key ($value | b64dec) -}}
{{- end -}}
{{- end -}}
{{- $generated := dict -}}
{{- range $key := list "operator-password" "facade-password" "runner-key" -}}
{{- $_ := set $generated $key (default (randAlphaNum 48) (get $kept $key)) -}}
{{- end -}}
{{- $_ := set .Values.redis "generated" $generated -}}
{{- end -}}
{{- .Values.redis.generated | toJson -}}
{{- end -}}

{{/*
Users of the chart's Redis. Rules are those of headrace_bus.acl; tests/contract/chart compares them. Runners' users are made by
the operator. `health` may only PING, for the probes. `facade` is there without a facade, too: another set of users restarts Redis.
*/}}
{{- define "headrace.redis.users" -}}
{{- $passwords := include "headrace.redis.passwords" . | fromJson -}}
user default off resetpass resetkeys resetchannels -@all
user health on nopass resetkeys resetchannels -@all +ping
user operator on #{{ get $passwords "operator-password" | sha256sum }} {{ include "headrace.redis.operatorRules" . }}
user facade on #{{ get $passwords "facade-password" | sha256sum }} {{ include "headrace.redis.facadeRules" . }}
{{ end -}}

{{- define "headrace.redis.transitions" -}}
-@all +ping +select +evalsha +eval +script|load +script|exists +time +publish +exists +del +unlink +pexpire +pttl +get +set +incr +hget +hset +hmget +hdel +hlen +zadd +zrem +zcard +zscore +zrank +zrange +zrangebyscore +zremrangebyscore +rpush +xadd +xlen +xrange +xtrim
{{- end -}}

{{- define "headrace.redis.operatorRules" -}}
resetkeys ~headrace:{* ~headrace:budget:* ~headrace:models resetchannels &headrace:wake:* {{ include "headrace.redis.transitions" . }} +lrem +ltrim +hrandfield +hscan +scan +zpopmin +sadd +srem +sscan +psubscribe +punsubscribe +info +acl|setuser +acl|getuser +acl|deluser +blpop
{{- end -}}

{{- define "headrace.redis.facadeRules" -}}
resetkeys ~headrace:{*}: ~headrace:{*}:entry:* ~headrace:{*}:queue:* ~headrace:{*}:ring:* ~headrace:{*}:finish:* ~headrace:{*}:clock ~headrace:{*}:queued ~headrace:{*}:leases ~headrace:{*}:waiter:* ~headrace:{*}:seq ~headrace:{*}:index ~headrace:{*}:pulse ~headrace:{*}:wake %R~headrace:{*}:report:* %R~headrace:{*}:gpus:* %R~headrace:{*}:result:* %R~headrace:{*}:weights %R~headrace:{*}:delayed %R~headrace:{*}:returned %R~headrace:{*}:workers %R~headrace:{*}:service %R~headrace:{*}:tokens:* %R~headrace:{*}:replay:* %W~headrace:{*}:envelope:* %W~headrace:{*}:inbox:* resetchannels -@all +ping +select +evalsha +time +get +hget +hmget +zcard +zscore +zrank +zrange +zrangebyscore +xread +xrange +set +incr +exists +del +unlink +pexpire +hset +hdel +zadd +zrem +rpush +lrem +ltrim (~headrace:rate:* +evalsha +time +hmget +hset +pexpire) (~headrace:session:* +evalsha +time +hget +hmget +hset +hdel +hstrlen +zadd +zrem +zscore +zrangebyscore +pexpire +pttl +unlink) (~headrace:ticket:* +set +getdel)
{{- end -}}

{{- define "headrace.redis.config" -}}
# Who connects is told by users.acl; the network policy says from where.
port 6379
bind * -::*
protected-mode no
aclfile /etc/redis/users.acl
dir /data
databases 1
appendonly yes
appendfsync everysec
save ""
maxmemory {{ .Values.redis.maxMemory }}
maxmemory-policy noeviction
tcp-keepalive 60
# Any pod may label itself a runner and connect. Idle connections end; those that block or subscribe are not idle to Redis, and
# clients open others when they need them.
maxclients {{ .Values.redis.maxClients }}
timeout 300
# Whoever does not read its replies is cut off: hard bytes, then soft bytes for seconds. Replies are at most a few MiB.
client-output-buffer-limit normal 32mb 16mb 30
client-output-buffer-limit pubsub 8mb 2mb 30
# All connections' buffers together; the one that holds most goes first.
maxmemory-clients 64mb
{{ end -}}

{{/* Rolls the pods when users or configuration change: Redis reads both only when it starts. */}}
{{- define "headrace.redis.checksum" -}}
{{- if .Values.redis.existingSecret -}}
{{- include "headrace.redis.config" . | sha256sum -}}
{{- else -}}
{{- printf "%s%s" (include "headrace.redis.config" .) (include "headrace.redis.users" .) | sha256sum -}}
{{- end -}}
{{- end -}}
