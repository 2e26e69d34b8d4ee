"""The entry points, in Lua: the global tables of scripts and libraries, and what machine.py calls to run them."""

from __future__ import annotations

from typing import Final

SOURCE: Final = rb"""
-- The global tables of scripts and of libraries -----------------------------------------------------------------------

local function nonexistent(_, name)
    error(format("Script attempted to access nonexistent global variable '%s'", tostring(name)), 2)
end

for name, members in pairs(lib) do base[name] = view_of(members) end
string_metatable.__index = lib.string
string_metatable.__metatable = view_of({ __index = base.string })

local function global_table(own)
    local members = {}
    for name, value in pairs(base) do members[name] = value end
    for name, value in pairs(own) do members[name] = value end
    local globals = view_of(setmetatable(members, { __index = nonexistent }))
    members._G = globals
    return globals, members
end

local eval_globals, eval_members = global_table({ redis = view_of(eval_redis) })
local function_globals = global_table({ redis = view_of(redis) })

-- Out of a script ---------------------------------------------------------------------------------------------------
--
-- What a script returns becomes one string, each value with a letter for its kind and its size where it has one. The
-- host reads that; giving it tables would cost a reference each.

local write

local function write_pairs(out, t, depth)
    local at, count = #out + 1, 0
    out[at] = ""
    for key, value in next, t do
        write(out, key, depth)
        write(out, value, depth)
        count = count + 1
    end
    out[at] = format("%%%d\n", count)
end

local function write_members(out, t, depth)
    local at, count = #out + 1, 0
    out[at] = ""
    for key in next, t do
        write(out, key, depth)
        count = count + 1
    end
    out[at] = format("~%d\n", count)
end

local function write_text(out, letter, text)
    out[#out + 1] = format("%s%d\n", letter, #text)
    out[#out + 1] = text
end

local function write_table(out, t, depth)
    if depth > DEEPEST_REPLY then
        return write_text(out, "-", "ERR reached lua stack limit")
    end
    local field = rawget(t, "err")
    if type(field) == "string" then return write_text(out, "-", field) end
    field = rawget(t, "ok")
    if type(field) == "string" then return write_text(out, "+", field) end
    field = rawget(t, "double")
    if type(field) == "number" then
        out[#out + 1] = format(",%.17g\n", field)
        return
    end
    field = rawget(t, "map")
    if type(field) == "table" then return write_pairs(out, field, depth + 1) end
    field = rawget(t, "set")
    if type(field) == "table" then return write_members(out, field, depth + 1) end
    field = rawget(t, "big_number")
    if type(field) == "string" then return write_text(out, "(", field) end
    field = rawget(t, "verbatim_string")
    if type(field) == "table" then
        local text, kind = rawget(field, "string"), rawget(field, "format")
        if type(text) == "string" and type(kind) == "string" then
            return write_text(out, "=", sub(kind .. "   ", 1, 3) .. text)
        end
    end
    local at, count = #out + 1, 0
    out[at] = ""
    while true do
        local value = rawget(t, count + 1)
        if value == nil then break end
        write(out, value, depth + 1)
        count = count + 1
    end
    out[at] = format("*%d\n", count)
end

write = function(out, value, depth)
    local kind = type(value)
    if kind == "string" then
        out[#out + 1] = format("$%d\n", #value)
        out[#out + 1] = value
    elseif kind == "number" then
        out[#out + 1] = format(":%d\n", value)
    elseif kind == "boolean" then
        out[#out + 1] = value and "t" or "f"
    elseif kind == "table" then
        write_table(out, value, depth)
    else
        out[#out + 1] = "_"
    end
end

-- What the driver calls ---------------------------------------------------------------------------------------------

local function begin(globals, seconds)
    current = globals
    state[OVER] = false
    state[DEADLINE] = clock() + seconds
    reset_libraries()
end

local function finish()
    state[DEADLINE] = huge
    if threads_made then forget_threads() end
    resumed = 0
    wipe_views()
    eval_members.KEYS, eval_members.ARGV = nil, nil
end

-- Kinds of result: 0 an error, 1 a string, 2 anything else.
local function result_of(ok, value)
    if ok then
        if type(value) == "string" then return 1, value end
        local out = {}
        write(out, value, 1)
        return 2, concat(out)
    end
    if type(value) ~= "table" then return 0, "ERR " .. tostring(value) end
    local text, source, line = rawget(value, "err"), rawget(value, "source"), rawget(value, "line")
    if type(text) ~= "string" then text = "ERR unknown error" end
    if type(source) ~= "string" or type(line) ~= "number" then return 0, text end
    return 0, text, source, line
end

local driver = { state = state, keep = keep }

function driver.compile(text, name, is_library)
    if byte(text) == 27 then return nil, "bytecode is not loaded" end
    local chunk, problem = loadstring(text, name)
    if not chunk then return nil, problem end
    chunk = loadstring(from_host(2, pcall(host.without_tail_calls, dump(chunk))), name)
    return setfenv(chunk, is_library and function_globals or eval_globals)
end

function driver.run(chunk, keys, arguments, seconds)
    begin(eval_globals, seconds)
    eval_members.KEYS, eval_members.ARGV = keys, arguments
    local kind, value, source, line = result_of(xpcall(chunk, on_error))
    finish()
    return kind, value, source, line
end

function driver.run_function(callback, keys, arguments, seconds)
    begin(function_globals, seconds)
    local kind, value, source, line = result_of(xpcall(function() return callback(keys, arguments) end, on_error))
    finish()
    return kind, value, source, line
end

-- Run a library's text: a problem, or nil. What it has registered is fetched one by one.
function driver.load_library(chunk, seconds)
    registered = {}
    local call, protected_call = redis.call, redis.pcall
    redis.call, redis.pcall, redis.register_function = nil, nil, register_function
    begin(function_globals, seconds)
    local ok, err = xpcall(chunk, on_error)
    redis.call, redis.pcall, redis.register_function = call, protected_call, nil
    finish()
    if ok then return nil end
    local _, text = result_of(false, err)
    return text
end

function driver.next_registered()
    local name, made = next(registered)
    if name == nil then return nil end
    registered[name] = nil
    return name, made[1], made[2], made[3]
end

-- After an error that has left `run` by the back door: out of time, or out of memory, while it was not in the script.
function driver.recover()
    sethook(hook, "", STEP)
    if redis.register_function then
        redis.call, redis.pcall, redis.register_function = eval_redis.call, eval_redis.pcall, nil
    end
    registered = {}
    finish()
end

function driver.collect() collectgarbage("collect") end

collectgarbage("setpause", 120)

-- Whoever finds a way to the first global table finds nothing there.
local globals = _G
for name in pairs(globals) do globals[name] = nil end

return driver
"""
