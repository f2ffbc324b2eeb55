-- One token in the wake list as long as work is queued, none otherwise: a blocked worker takes it,
-- claims, and its claim lays the next one when work is left. So the list never has two elements.
local function lay_token()
  if redis.call('EXISTS', P .. 'wake') == 0 then redis.call('RPUSH', P .. 'wake', '1') end
end

local function wake_workers()
  if redis.call('EXISTS', P .. 'queued') == 0 then
    redis.call('DEL', P .. 'wake')
  else
    lay_token()
  end
end

local function wake_operator()
  redis.call('PUBLISH', CHANNEL, '')
end
