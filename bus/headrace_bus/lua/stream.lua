#!lua
-- include: keys requests leases
-- ARGV: request, most bytes of a replay, most records of an inbox, then uid, attempt, nonce, reader, event of every event
-- Reply: '1' or '0' (lost) per event, in one text. Without allow-oom: at maxmemory nothing is streamed, the result tells all.
-- One record per reader, whatever it holds: its field names are uids, its values `<replay id> <replay id before> <event>`.
local INBOX_MS, REPLAY_MS, EVENTS_MAX, TRIM_MAX = 60000, 600000, 256, 256
local now = now_ms()
local known = recall(ARGV[1], now)
if known then return known end
local most_bytes, most_records = limited(ARGV[2], 1048576), limited(ARGV[3], LIMIT_MAX)
if (#ARGV - 3) % 5 ~= 0 or #ARGV > 3 + 5 * EVENTS_MAX then return redis.error_reply('ERR more events than a step has') end

-- The id of the last event, and how many bytes the call has had until its end.
local function last(key)
  local found = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if not found[1] then return '0-0', 0 end
  return found[1][1], number(found[1][2][4], 0)
end

-- What ended more than the bound before the end goes, the oldest first.
local function trim(key, total)
  for _, each in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', TRIM_MAX)) do
    if total - number(each[2][4], 0) < most_bytes then
      redis.call('XTRIM', key, 'MINID', each[1])
      return
    end
  end
end

local kept, records, order = {}, {}, {}
for i = 4, #ARGV, 5 do
  local uid, reader, event = ARGV[i], ARGV[i + 3], ARGV[i + 4]
  if is_name(reader) and holds(uid, ARGV[i + 1], ARGV[i + 2]) then
    local key = P .. 'replay:' .. uid
    local before, bytes = last(key)
    local id = redis.call('XADD', key, '*', 'event', event, 'until', bytes + #event)
    trim(key, bytes + #event)
    redis.call('PEXPIRE', key, REPLAY_MS)
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
for _, reader in ipairs(order) do
  local key = P .. 'tokens:' .. reader
  redis.call('XADD', key, 'MAXLEN', most_records, '*', unpack(records[reader]))
  redis.call('PEXPIRE', key, INBOX_MS)
end
return remember(ARGV[1], now, table.concat(kept))
