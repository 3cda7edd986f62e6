local lock = require("resty.lock")

local none, err = lock:new("no_such_dictionary")
assert(not none and err)

local function new(opts)
  return assert(lock:new("locks", opts))
end

local a, b = new(), new({ timeout = 0 })
assert(a:lock("key") == 0)
local waited
waited, err = b:lock("key")
assert(waited == nil and err == "timeout", err)
assert(b:lock("another key") == 0)
assert(b:unlock() == 1)
waited, err = a:lock("key 2")
assert(waited == nil and err == "locked", err)
assert(a:unlock() == 1)
local ok
ok, err = a:unlock()
assert(ok == nil and err == "unlocked", err)
assert(b:lock("key") == 0)
assert(b:unlock() == 1)

-- Waiting until it is given up, and no longer than the timeout.
assert(a:lock("key"))
ngx.timer.at(0.05, function()
  ngx.shared.locks:delete("key") -- as if a had unlocked in another worker
end)
local c = new({ timeout = 5 })
waited = assert(c:lock("key"))
assert(waited >= 0.04 and waited < 1, waited)
-- a's lock is c's now, and a must not give it up.
a:unlock()
waited, err = new({ timeout = 0 }):lock("key")
assert(waited == nil and err == "timeout", err)
assert(c:unlock() == 1)

-- One whose holder died runs out.
assert(new({ exptime = 0.05 }):lock("key"))
waited = assert(new({ timeout = 5 }):lock("key"))
assert(waited > 0.02, waited)
waited, err = new({ timeout = 0.05 }):lock("key")
assert(waited == nil and err == "timeout", err)
ngx.shared.locks:flush_all()
