-- The order: per class a ring of namespaces (zset: namespace -> virtual start time of its head), per
-- class and namespace a queue (zset: "<sequence>:<uid>" -> score). Formulas and bounds: order.py.

local function virtual_time(class)
  return number(redis.call('HGET', P .. 'clock', 'vtime:' .. class), 0)
end

-- A namespace without queued work keeps its next start only while that lies ahead of virtual time;
-- a class without queued work starts again at 0.
local function leave_ring(class, namespace, start)
  redis.call('ZREM', ring_key(class), namespace)
  if redis.call('EXISTS', ring_key(class)) == 0 then
    redis.call('HDEL', P .. 'clock', 'vtime:' .. class)
    redis.call('DEL', finish_key(class))
  elseif start > virtual_time(class) then
    redis.call('ZADD', finish_key(class), start, namespace)
  end
end

-- What is given beyond `now` are fields for the entry.
local function push(uid, class, namespace, score, now, ...)
  local queue = queue_key(class, namespace)
  -- The sequence, fixed in width, makes equal scores first in, first out.
  local member = string.format('%016d:', redis.call('INCR', P .. 'seq')) .. uid
  redis.call('ZADD', queue, score, member)
  if redis.call('ZCARD', queue) == 1 then
    local start = number(redis.call('ZSCORE', finish_key(class), namespace), 0)
    redis.call('ZADD', ring_key(class), math.max(virtual_time(class), start), namespace)
    redis.call('ZREM', finish_key(class), namespace)
  end
  redis.call('ZADD', P .. 'queued', now, uid)
  redis.call('HSET', entry_key(uid), 'state', 'Queued', 'since', now, 'member', member, ...)
end

local function unqueue(uid, class, namespace, member)
  redis.call('ZREM', P .. 'queued', uid)
  redis.call('ZREM', queue_key(class, namespace), member)
  if redis.call('EXISTS', queue_key(class, namespace)) == 0 then
    leave_ring(class, namespace, number(redis.call('ZSCORE', ring_key(class), namespace), 0))
  end
end
