#!lua flags=allow-oom
-- include: keys
-- Everything of a namespace that has no budgets any more. Reply: 1
redis.call('UNLINK', P .. 'spent', P .. 'reserved', P .. 'held', P .. 'ends')
return 1
