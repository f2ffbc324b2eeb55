-- Taking an entry out of whatever state it is in, or claims to be in.

local function detach(uid)
  local entry = fields(uid, 'class', 'namespace', 'member')
  if entry[3] and redis.call('ZSCORE', P .. 'queued', uid) then unqueue(uid, entry[1] or '', entry[2] or '', entry[3]) end
  redis.call('ZREM', P .. 'queued', uid)
  redis.call('ZREM', P .. 'delayed', uid)
  redis.call('ZREM', P .. 'leases', uid)
  redis.call('ZREM', P .. 'returned', uid)
  redis.call('ZREM', P .. 'parked', uid)
  redis.call('UNLINK', parked_key(uid))
end

local function forget(uid)
  redis.call('UNLINK', entry_key(uid), envelope_key(uid))
  redis.call('HDEL', P .. 'index', uid)
  if redis.call('EXISTS', P .. 'index') == 0 then redis.call('DEL', P .. 'seq', P .. 'clock', P .. 'pulse') end
end
