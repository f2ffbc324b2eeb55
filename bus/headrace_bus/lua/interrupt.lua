#!lua flags=allow-oom
-- include: keys inbox
-- ARGV: uid, word, limit of words in an inbox
-- Reply: the worker that was told, or nil. No request id: telling again changes nothing. allow-oom: what is aborted frees memory.
return tell_holder(ARGV[1], ARGV[2], ARGV[3])
