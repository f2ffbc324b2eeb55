-- Taking an entry out of whatever state it is in.

local function detach(uid)
  local entry = redis.call('HMGET', entry_key(uid), 'state', 'class', 'namespace', 'member')
  if entry[1] == 'Queued' then
    unqueue(uid, entry[2], entry[3], entry[4])
  elseif entry[1] == 'Delayed' then
    redis.call('ZREM', P .. 'delayed', uid)
  elseif entry[1] == 'Leased' then
    redis.call('ZREM', P .. 'leases', uid)
  elseif entry[1] == 'Returned' then
    redis.call('ZREM', P .. 'returned', uid)
  end
end

local function forget(uid)
  redis.call('UNLINK', entry_key(uid), envelope_key(uid))
  redis.call('HDEL', P .. 'index', uid)
  if redis.call('EXISTS', P .. 'index') == 0 then redis.call('DEL', P .. 'seq', P .. 'clock') end
end
