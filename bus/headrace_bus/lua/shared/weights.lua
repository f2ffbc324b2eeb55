-- A namespace's share among the others. What an admin wrote that makes no sense counts as 1: it must stop no claim.
local function weight_of(namespace)
  local weight = number(redis.call('HGET', P .. 'weights', namespace), 1)
  if weight and weight >= 0.001 and weight <= 1000 then return weight end
  return 1
end
