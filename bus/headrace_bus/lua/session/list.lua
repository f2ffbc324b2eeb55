#!lua flags=no-writes
-- include: keys sessions
-- ARGV: –
-- Reply: id, version, ms at which it was made, ms at which it ends, bytes, exchanges; of each, the one that ends last first
local reply = {}
local ids = ids_at(now_ms())
for i = #ids, 1, -1 do
  local id = ids[i]
  local kept = redis.call('HMGET', session_key(id), 'version', 'made', 'bytes', 'first', 'last')
  if kept[1] then
    local many = number(kept[5], 0) - number(kept[4], 1) + 1
    for _, each in ipairs({id, kept[1], kept[2], redis.call('ZSCORE', ENDS, id), kept[3], many}) do table.insert(reply, each) end
  end
end
return reply
