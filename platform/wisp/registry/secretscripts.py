"""Changes to tenants' secrets and to bearers, as Lua scripts (`registry.scripts` says what they promise)."""

from __future__ import annotations

from wisp.registry.scripts import script

PUT_SECRET = script("""
-- KEYS: tenant, secrets, generation
-- ARGV: tenant name, secret name, sealed value, most that there may be
-- ok, created (1 or 0) | no_tenant | full

if redis.call('EXISTS', KEYS[1]) == 0 then return {'no_tenant'} end
local known = redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1
if not known and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[4]) then return {'full'} end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
changed(KEYS[3], ARGV[1], 'secret', ARGV[2])
return {'ok', known and 0 or 1}
""")

DELETE_SECRET = script("""
-- KEYS: secrets, generation
-- ARGV: tenant name, secret name
-- ok | no_secret

if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return {'no_secret'} end
changed(KEYS[2], ARGV[1], 'secret', ARGV[2])
return {'ok'}
""")

SET_BEARER = script("""
-- KEYS: models, bearers, generation
-- ARGV: model name, model@version, sealed bearer or '' for none
-- ok | no_model

if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return {'no_model'} end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
elseif redis.call('HDEL', KEYS[2], ARGV[2]) == 0 then
  return {'ok'}
end
changed(KEYS[3], '', 'model', ARGV[1])
return {'ok'}
""")
