-- What time alone brings about: leases that ran out, delayed entries that are due.
local function sweep(now, limit)
  local expired = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, limit)
  for _, uid in ipairs(expired) do to_returned(uid, now, 'LeaseExpired', '') end
  local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', now, 'LIMIT', 0, limit - #expired)
  for _, uid in ipairs(due) do
    redis.call('ZREM', P .. 'delayed', uid)
    local entry = redis.call('HMGET', entry_key(uid), 'class', 'namespace', 'score')
    push(uid, entry[1], entry[2], entry[3], now)
  end
  if #expired > 0 then wake_operator() end
  return #expired + #due
end
