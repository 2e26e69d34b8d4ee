"""The sandbox, in Lua: what a script may see, and how it is started, stopped and read out.

Together with the texts of redis_table.py, patterns.py, cjson.py, cmsgpack.py and entry_points.py, which follow it in
one chunk, this runs once when the interpreter is made. It takes what it needs out of the global table, which is wiped
at the end, and gives scripts a global table of their own.

Rules that are not visible in any single line:

- A script never holds a Python object. Host functions are upvalues of Lua functions, and they are handed scalars only:
  for a table lupa would make a reference, which needs memory at a moment when a failure to get it is fatal.
- Library tables are seen through empty tables that refer to them (views), so they cannot be changed. C functions such
  as table.sort can write into a view itself; what they leave there is wiped after the run.
- Time is measured in a count hook. Once it is over, the hook fires at every instruction, so that no pcall holds out.
  Hooks do not fire in error handlers and finalizers: xpcall calls its handler after unwinding, newproxy is not there.
  A hook belongs to one coroutine, so coroutines are made with one, and nest to a bounded depth, because the C stack
  grows with each.
- Bytecode is refused: the virtual machine trusts it. Pattern matching goes through patterns.py.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = rb"""
local host, limits = ...

local string, table, math, coroutine = string, table, math, coroutine
local type, next, pairs, ipairs, select, unpack = type, next, pairs, ipairs, select, unpack
local error, pcall, xpcall, tostring, tonumber = error, pcall, xpcall, tostring, tonumber
local rawget, rawset, rawequal, setmetatable, getmetatable = rawget, rawset, rawequal, setmetatable, getmetatable
local setfenv, loadstring, newproxy, collectgarbage, gcinfo = setfenv, loadstring, newproxy, collectgarbage, gcinfo
local sethook, getinfo, getregistry, thread_is = debug.sethook, debug.getinfo, debug.getregistry, coroutine.running
local clock, format, sub, byte, find, dump = os.clock, string.format, string.sub, string.byte, string.find, string.dump
local concat, floor, huge = table.concat, math.floor, math.huge
local co_create, co_resume, co_status = coroutine.create, coroutine.resume, coroutine.status
local string_metatable = getmetatable("")

-- Instructions between two looks at the clock.
local STEP = 1000
-- Coroutines within coroutines; each takes a piece of the C stack.
local DEEPEST_COROUTINE = 100
-- Tables within tables of what a script returns.
local DEEPEST_REPLY = 1000
local READ_ONLY = "Attempt to modify a readonly table"
local NO_MEMORY = "not enough memory"

-- Shared with the driver: the deadline, and whether it has passed. Numbers for keys, because the driver sets them when
-- there may be no memory for a string.
local DEADLINE, OVER = 1, 2
local state = { huge, false }
-- The name that lupa looks up for every call; it is to be found there without memory, too.
local keep = { "debug", "traceback" }
local threads_made = false
local resumed = 0

-- Views -----------------------------------------------------------------------------------------------------------

local views = setmetatable({}, { __mode = "k" })
local all_views = {}
local function refuse() error(READ_ONLY, 2) end
-- What getmetatable shows of a view.
local sealed = setmetatable({}, { __newindex = refuse, __metatable = false })
views[sealed], all_views[1] = {}, sealed

local function view_of(base)
    local view = setmetatable({}, { __index = base, __newindex = refuse, __metatable = sealed })
    views[view] = base
    all_views[#all_views + 1] = view
    return view
end

local function wipe_views()
    for i = 1, #all_views do
        local view = all_views[i]
        while next(view) ~= nil do
            rawset(view, next(view), nil)
        end
    end
end

-- Time and threads ------------------------------------------------------------------------------------------------

local hook

local too_long = limits.too_long

local function over_time()
    if state[OVER] or clock() > state[DEADLINE] then
        state[OVER] = true
        sethook(hook, "", 1)
        error(too_long, 0)
    end
end
hook = over_time

-- The debug library keeps hooks by coroutine and never forgets one.
local hooks_by_thread
sethook(hook, "", STEP)
for key, value in pairs(getregistry()) do
    if type(key) == "userdata" and type(value) == "table" then
        for _, known in pairs(value) do
            if rawequal(known, hook) then hooks_by_thread = value end
        end
    end
end
local main_thread = next(hooks_by_thread)

local function forget_threads()
    threads_made = false
    for thread in pairs(hooks_by_thread) do
        if thread ~= main_thread then hooks_by_thread[thread] = nil end
    end
end

local function make_thread(body)
    if type(body) ~= "function" then
        error("bad argument #1 to 'create' (Lua function expected)", 3)
    end
    local thread = co_create(function(...) return body(...) end)
    threads_made = true
    sethook(thread, hook, "", STEP)
    return thread
end

local function after_resume(...)
    resumed = resumed - 1
    return ...
end

local function resume(thread, ...)
    if type(thread) ~= "thread" then error("bad argument #1 to 'resume' (coroutine expected)", 2) end
    if resumed >= DEEPEST_COROUTINE then return false, "C stack overflow" end
    resumed = resumed + 1
    return after_resume(co_resume(thread, ...))
end

local function pass_or_raise(ok, ...)
    if ok then return ... end
    error((...), 0)
end

-- Errors ----------------------------------------------------------------------------------------------------------

-- The position of an error: the innermost function that is neither C nor ours.
local function locate(err)
    for level = 2, 60 do
        local info = getinfo(level, "Sl")
        if not info then return err end
        if info.what ~= "C" and info.what ~= "tail" and info.source ~= "=host" then
            rawset(err, "source", info.source)
            rawset(err, "line", info.currentline)
            return err
        end
    end
    return err
end

local function on_error(err)
    if type(err) == "table" and not views[err] then return locate(err) end
    local text = views[err] and READ_ONLY or tostring(err)
    local located = locate({})
    if located.source and find(text, "^host:%d+: ") then
        -- A C function that was called by one of ours.
        local source = sub(located.source, 1, 1) == "@" and sub(located.source, 2) or "?"
        text = string.gsub(text, "^host:%d+: ", function() return source .. ":" .. located.line .. ": " end)
    end
    located.err = "ERR " .. text
    return located
end

-- An error as a table: "-CODE text", "CODE text" is not told from "text" without the minus.
local function error_table(text)
    text = (string.gsub(text, "[\r\n]+$", ""))
    local code, message = "ERR", text
    if sub(text, 1, 1) == "-" then
        local space = find(text, " ", 1, true)
        if space then
            code, message = sub(text, 2, space - 1), sub(text, space + 1)
        else
            message = sub(text, 2)
        end
    end
    return { err = code .. " " .. (string.gsub(message, "[\r\n]", " ")) }
end

local function raise(text) error(error_table(text), 0) end

-- A call of the host: it answers (true, ...) or (false, text), and neither when there is no memory for its answer.
local function from_host(position, ok, done, ...)
    if not ok or done == nil then error(NO_MEMORY, 0) end
    if done == true then return ... end
    error(..., position)
end

local function wrong_argument(number, name, expected, value, count)
    local got = count and "no value" or type(value)
    error(format("bad argument #%d to '%s' (%s expected, got %s)", number, name, expected, got), 3)
end

-- What a script may use ---------------------------------------------------------------------------------------------

local function copy(from, names)
    local to = {}
    for name in string.gmatch(names, "%S+") do to[name] = from[name] end
    return to
end

local base = copy(_G, "assert error ipairs next rawequal select tonumber tostring type unpack gcinfo _VERSION")
local lib = {}
lib.string = copy(string, "byte char dump format len lower rep reverse sub upper")
lib.table = copy(table, "concat foreach foreachi getn maxn remove setn sort")
lib.math = copy(math, "abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log log10 max min "
    .. "mod modf pi pow rad sin sinh sqrt tan tanh")
lib.coroutine = { running = coroutine.running, status = co_status, yield = coroutine.yield }

-- A script that is loaded by a script sees what that one sees.
local current

function base.loadstring(text, name)
    if type(text) ~= "string" then wrong_argument(1, "loadstring", "string", text) end
    if byte(text) == 27 then return nil, "bytecode is not loaded" end
    local chunk, problem = loadstring(text, name ~= nil and tostring(name) or text)
    if chunk then setfenv(chunk, current) end
    return chunk, problem
end

function base.load(reader, name)
    if type(reader) ~= "function" then wrong_argument(1, "load", "function", reader) end
    local pieces = {}
    while true do
        local piece = reader()
        if piece == nil or piece == "" then break end
        if type(piece) ~= "string" then return nil, "reader function must return a string" end
        pieces[#pieces + 1] = piece
    end
    return base.loadstring(concat(pieces), name or "=(load)")
end

-- As Redis has it since 7: what redis.call raises is a table, which pcall shows as its text.
local function plain_error(ok, err, ...)
    if not ok and type(err) == "table" then
        local text = rawget(err, "err")
        if text ~= nil then return false, text end
    end
    return ok, err, ...
end

function base.pcall(...)
    if select("#", ...) == 0 then error("bad argument #1 to 'pcall' (value expected)", 2) end
    return plain_error(pcall(...))
end

local function handled(handler, ok, ...)
    if ok then return true, ... end
    local fine, result = pcall(handler, (...))
    return false, result
end

function base.xpcall(body, handler)
    return handled(handler, pcall(body))
end

function base.pairs(t)
    if type(t) ~= "table" then wrong_argument(1, "pairs", "table", t) end
    local hidden = views[t]
    if hidden then
        t = {}
        for key, value in pairs(hidden) do t[key] = value end
    end
    return next, t, nil
end

function base.rawget(t, key)
    if type(t) ~= "table" then wrong_argument(1, "rawget", "table", t) end
    return rawget(views[t] or t, key)
end

function base.rawset(t, key, value)
    if type(t) ~= "table" then wrong_argument(1, "rawset", "table", t) end
    if views[t] then error(READ_ONLY, 0) end
    return rawset(t, key, value)
end

function base.getmetatable(value)
    return getmetatable(value)
end

function base.setmetatable(t, metatable)
    if type(t) ~= "table" then wrong_argument(1, "setmetatable", "table", t) end
    if metatable ~= nil and type(metatable) ~= "table" then
        error("bad argument #2 to 'setmetatable' (nil or table expected)", 2)
    end
    if views[t] then error(READ_ONLY, 0) end
    return setmetatable(t, metatable)
end

-- A script that could stop the collector would stop it for all that come after.
function base.collectgarbage(what, ...)
    if what == "count" then return collectgarbage("count") end
    if what == "step" then return collectgarbage("step", 1) end
    if what == nil or what == "collect" then
        over_time()
        return collectgarbage("collect")
    end
    if what == "stop" or what == "restart" then return 0 end
    if what == "setpause" then return 200 end
    if what == "setstepmul" then return 200 end
    error(format("bad argument #1 to 'collectgarbage' (invalid option '%s')", tostring(what)), 2)
end

lib.coroutine.create = function(body) return make_thread(body) end
lib.coroutine.resume = resume
lib.coroutine.wrap = function(body)
    local thread = make_thread(body)
    return function(...) return pass_or_raise(resume(thread, ...)) end
end

-- C moves elements from the end down to the position, however far below the first that is.
local insert = table.insert
function lib.table.insert(t, ...)
    if views[t] then error(READ_ONLY, 0) end
    local count = select("#", ...)
    if count == 2 and type((...)) == "number" and (...) < 1 then
        error("bad argument #2 to 'insert' (position out of bounds)", 2)
    end
    if type(t) ~= "table" then wrong_argument(1, "insert", "table", t) end
    if count ~= 1 and count ~= 2 then error("wrong number of arguments to 'insert'", 2) end
    return insert(t, ...)
end

-- The numbers that Redis gives for a seed.
function lib.math.random(...)
    local r = host.random()
    local count = select("#", ...)
    if count == 0 then return r / 2147483647 end
    local low, high = 1, (...)
    if count > 1 then low, high = ... end
    low, high = tonumber(low), tonumber(high)
    if count > 2 then error("wrong number of arguments", 2) end
    if not low or not high then error("bad argument #1 to 'random' (number expected)", 2) end
    if low > high then error(format("bad argument #%d to 'random' (interval is empty)", count), 2) end
    return floor(r / 2147483647 * (high - low + 1)) + low
end

function lib.math.randomseed(seed)
    seed = tonumber(seed)
    if not seed then error("bad argument #1 to 'randomseed' (number expected)", 2) end
    host.randomseed(seed)
end

-- Libraries whose work is done by the host take and give numbers and strings.
local function scalars(name, ...)
    for i = 1, select("#", ...) do
        local kind = type((select(i, ...)))
        if kind ~= "number" and kind ~= "string" and kind ~= "boolean" and kind ~= "nil" then return i, kind end
    end
end

local function host_library(functions, names)
    local made = {}
    for name in string.gmatch(names, "%S+") do
        local work = functions[name]
        made[name] = function(...)
            local wrong, kind = scalars(name, ...)
            if wrong then
                error(format("bad argument #%d to '%s' (number expected, got %s)", wrong, name, kind), 2)
            end
            return from_host(3, pcall(work, ...))
        end
    end
    return made
end

lib.bit = host_library(host.bit, "arshift band bnot bor bswap bxor lshift rol ror rshift tobit tohex")
lib.struct = host_library(host.struct, "pack unpack size")
"""
