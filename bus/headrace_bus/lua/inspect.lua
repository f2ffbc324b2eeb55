#!lua flags=no-writes
-- include: keys describe
-- ARGV: uid
-- Reply: {uid, attempt, state, namespace, name, since, worker, claimed, reason, failure} or nil
return describe(ARGV[1])
