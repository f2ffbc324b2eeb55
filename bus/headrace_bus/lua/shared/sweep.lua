local SWEEP_MAX = 100

-- What time alone brings about: leases that ran out, delayed entries that are due. Gives how many entries moved, and
-- whether the pulse was felt.
local function sweep(now, limit, lease_ms)
  limit = limited(limit, SWEEP_MAX)
  local first = redis.call('ZRANGE', P .. 'leases', 0, 0, 'WITHSCORES')
  local moved, pulsed = 0, first[1] ~= nil
  if not pulsed then
    redis.call('DEL', P .. 'pulse')
  elseif pulse(now, lease_ms) <= now and number(first[2], now) <= now then
    for _, uid in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, limit)) do
      moved = moved + 1
      if fields(uid, 'state')[1] == 'Leased' then
        to_returned(uid, now, 'LeaseExpired', '')
      else
        redis.call('ZREM', P .. 'leases', uid)
      end
    end
    if moved > 0 then wake_operator() end
  end
  for _, uid in ipairs(redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', now, 'LIMIT', 0, limit - moved)) do
    moved = moved + 1
    redis.call('ZREM', P .. 'delayed', uid)
    local entry = fields(uid, 'class', 'namespace', 'score')
    local score = number(entry[3])
    if (entry[1] == 'Call' or entry[1] == 'Task') and is_name(entry[2]) and score then push(uid, entry[1], entry[2], entry[3], now) end
  end
  return moved, pulsed
end
