#!lua
-- include: keys forget streams callers leases service
-- ARGV: uid, attempt, nonce, most bytes of a replay, then events, the last of which ends the call
-- Reply: 1 or 0 (lost). Without allow-oom: at maxmemory nothing is told, and the holder fails the call. No request id: whoever asks
-- again holds nothing any more, and its reader has the end already.
local EVENTS_MAX, EVENT_MAX, STEP_MAX = 256, 64 * 1024, 1024 * 1024
local uid = ARGV[1]
local now = now_ms()
local size = 0
for i = 5, #ARGV do
  size = size + #ARGV[i]
  if #ARGV > 4 + EVENTS_MAX or #ARGV[i] > EVENT_MAX or size > STEP_MAX then return redis.error_reply('ERR larger than a step is') end
end
local held, claimed, reader = end_lease(uid, ARGV[2], ARGV[3])
if not held or not reader or not is_name(reader) then return 0 end
local told = math.floor(number(fields(uid, 'told')[1], 0))
local record = {}
for i = 5, #ARGV do
  local before = told > 0 and id_of(told) or '0-0'
  told = (told > 0 and told or now * BYTES_PER_MS) + #ARGV[i]
  append(replay_key(uid), REPLAY_EVENTS, id_of(told), 'event', ARGV[i])
  table.insert(record, uid)
  table.insert(record, id_of(told) .. ' ' .. before .. ' ' .. ARGV[i])
end
redis.call('XTRIM', replay_key(uid), 'MINID', id_of(told - limited(ARGV[4], 1048576)))
redis.call('PEXPIRE', replay_key(uid), REPLAY_MS)
append(tokens_key(reader), READER_RECORDS, '*', unpack(record))
redis.call('PEXPIRE', tokens_key(reader), TOKENS_MS)
forget(uid)
served(now, claimed)
return 1
