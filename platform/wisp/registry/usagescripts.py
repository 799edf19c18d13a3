"""The script behind `registry.usage`."""

from __future__ import annotations

from wisp.registry.scripts import script

ADD_USAGE = script("""
-- KEYS: tenant, usage, usage-items, usage-lives
-- ARGV: life, sequence, now in Unix seconds, oldest moment of a life to keep, oldest hour to keep, names of all fields;
--       then in one word, with spaces, for each item: hour, function, number of fields, as many names and what to add
-- ok, counted (1, or 0 if this sequence was counted before) | no_tenant

if redis.call('EXISTS', KEYS[1]) == 0 then return {'no_tenant'} end
local last = redis.call('HGET', KEYS[4], ARGV[1])
if last and tonumber(string.match(last, '^%d+')) >= tonumber(ARGV[2]) then return {'ok', 0} end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
if redis.call('HLEN', KEYS[4]) > 64 then
  local lives = redis.call('HGETALL', KEYS[4])
  for index = 1, #lives, 2 do
    if tonumber(string.match(lives[index + 1], '%d+$')) < tonumber(ARGV[4]) then
      redis.call('HDEL', KEYS[4], lives[index])
    end
  end
end
local words, at = {}, 1
for word in string.gmatch(ARGV[7], '%S+') do words[#words + 1] = word end
while at <= #words do
  local item = words[at] .. ' ' .. words[at + 1]
  local last_pair = at + 2 + 2 * tonumber(words[at + 2])
  redis.call('ZADD', KEYS[3], words[at], item)
  for pair = at + 3, last_pair, 2 do
    redis.call('HINCRBY', KEYS[2], item .. ' ' .. words[pair], words[pair + 1])
  end
  at = last_pair + 1
end
-- A few at a time: more come in at most one an hour and function.
for _, item in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. ARGV[5], 'LIMIT', 0, 64)) do
  for name in string.gmatch(ARGV[6], '%S+') do redis.call('HDEL', KEYS[2], item .. ' ' .. name) end
  redis.call('ZREM', KEYS[3], item)
end
return {'ok', 1}
""")
