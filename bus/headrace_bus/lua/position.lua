#!lua flags=no-writes
-- include: keys weights
-- ARGV: uid, calls_per_task, limit of namespaces looked at
-- Reply: how many are ahead, or nil when the entry is not queued. An estimate: it takes every other
-- entry to cost what this one does, and nothing to arrive.
local entry = fields(ARGV[1], 'state', 'class', 'namespace', 'member', 'cost')
if entry[1] ~= 'Queued' or not (is_name(entry[2]) and is_name(entry[3]) and entry[4]) then return false end
local class, namespace = entry[2], entry[3]
local rank = redis.call('ZRANK', queue_key(class, namespace), entry[4])
if not rank then return false end

local limit, calls_per_task = limited(ARGV[3], LIMIT_MAX), limited(ARGV[2], LIMIT_MAX)
local cost = math.max(1, number(entry[5], 1))
local function step(of) return cost / weight_of(of) end
local start = number(redis.call('ZSCORE', ring_key(class), namespace), 0) + rank * step(namespace)
local ahead = rank
local ring = redis.call('ZRANGE', ring_key(class), 0, limit - 1, 'WITHSCORES')
for i = 1, #ring, 2 do
  local other, other_start = ring[i], number(ring[i + 1], 0)
  if other ~= namespace and is_name(other) and other_start <= start then
    local served = (start - other_start) / step(other)
    -- Of equal starts the name decides, as in the ring.
    local turns = other < namespace and math.floor(served) + 1 or math.ceil(served)
    ahead = ahead + math.min(turns, redis.call('ZCARD', queue_key(class, other)))
  end
end

local function waiting(of)
  local count = 0
  for _, each in ipairs(redis.call('ZRANGE', ring_key(of), 0, limit - 1)) do
    if is_name(each) then count = count + redis.call('ZCARD', queue_key(of, each)) end
  end
  return count
end
local in_a_row = number(redis.call('HGET', P .. 'clock', 'calls'), 0)
if class == 'Task' then
  return ahead + math.min(waiting('Call'), math.max(0, calls_per_task * (ahead + 1) - in_a_row))
end
return ahead + math.min(waiting('Task'), math.floor((ahead + in_a_row) / calls_per_task))
