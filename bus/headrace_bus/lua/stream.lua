#!lua
-- include: keys requests forget streams callers leases
-- ARGV: request, most bytes of a replay, most records of an inbox, then uid, attempt, nonce, reader, event of every event
-- Reply: '1' or '0' (lost) per event, in one text. Without allow-oom: at maxmemory nothing is streamed, the result tells all.
-- One record per reader, whatever it holds: its field names are uids, its values `<replay id> <replay id before> <event>`.
local EVENTS_MAX, EVENT_MAX, STEP_MAX = 256, 64 * 1024, 1024 * 1024
local now = now_ms()
local known = recall(ARGV[1], now)
if known then return known end
local most_bytes, most_records = limited(ARGV[2], 1048576), limited(ARGV[3], LIMIT_MAX)
if (#ARGV - 3) % 5 ~= 0 or #ARGV > 3 + 5 * EVENTS_MAX then return redis.error_reply('ERR more events than a step has') end
local size = 0
for i = 8, #ARGV, 5 do
  size = size + #ARGV[i]
  if ARGV[i] == '' or #ARGV[i] > EVENT_MAX or size > STEP_MAX then return redis.error_reply('ERR larger than a step is') end
end

-- Read once, however many events of the call there are.
local calls = {}
local function call_of(uid)
  if calls[uid] then return calls[uid] end
  local entry = fields(uid, 'state', 'attempt', 'nonce', 'told')
  local leased = entry[1] == 'Leased' and redis.call('ZSCORE', P .. 'leases', uid) ~= false
  local told = math.floor(number(entry[4], 0))
  calls[uid] = {leased = leased, attempt = entry[2], nonce = entry[3], told = told > 0 and told}
  return calls[uid]
end

local kept, records, order = {}, {}, {}
for i = 4, #ARGV, 5 do
  local uid, reader, event = ARGV[i], ARGV[i + 3], ARGV[i + 4]
  local call = is_name(reader) and call_of(uid)
  if call and call.leased and call.attempt == ARGV[i + 1] and call.nonce == ARGV[i + 2] then
    local before = call.told and id_of(call.told) or '0-0'
    call.told, call.grown = (call.told or now * BYTES_PER_MS) + #event, true
    local id = id_of(call.told)
    append(replay_key(uid), REPLAY_EVENTS, id, 'event', event)
    if not records[reader] then
      records[reader] = {}
      table.insert(order, reader)
    end
    table.insert(records[reader], uid)
    table.insert(records[reader], id .. ' ' .. before .. ' ' .. event)
    table.insert(kept, '1')
  else
    table.insert(kept, '0')
  end
end
for uid, call in pairs(calls) do
  if call.grown then
    redis.call('XTRIM', replay_key(uid), 'MINID', id_of(call.told - most_bytes))
    redis.call('PEXPIRE', replay_key(uid), REPLAY_MS)
    redis.call('HSET', entry_key(uid), 'told', string.format('%.0f', call.told))
  end
end
for _, reader in ipairs(order) do
  append(tokens_key(reader), most_records, '*', unpack(records[reader]))
  redis.call('PEXPIRE', tokens_key(reader), TOKENS_MS)
end
return remember(ARGV[1], now, table.concat(kept))
