-- A task's priority may be edited while it waits: the waiting entry takes its new place.

-- Whether the entry waits, then at this score, and whether it stood at another.
local function reorder(uid, class, namespace, score)
  local entry = fields(uid, 'state', 'score', 'member')
  if entry[1] ~= 'Queued' and entry[1] ~= 'Delayed' then return false, false end
  if entry[2] == score then return true, false end
  redis.call('HSET', entry_key(uid), 'score', score)
  if entry[1] == 'Queued' and entry[3] then redis.call('ZADD', queue_key(class, namespace), 'XX', score, entry[3]) end
  return true, true
end
