"""Pattern matching, in Lua: find, match, gmatch and gsub that cannot stall or crash the process.

The C functions of Lua 5.1 look at no clock while they match, take time that grows with the subject's length to the
power of the pattern's repetitions, and recurse once for each of them until the C stack is used up. So a call whose
worst case is harmless (nearly every one) goes to C; for the others there is the same matcher here, in Lua, where the
count hook can end it. It is some fifty times slower.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = rb"""
local reset_patterns
do
    local c_find, c_match, c_gmatch, c_gsub = string.find, string.match, string.gmatch, string.gsub
    local char, lower, upper = string.char, string.lower, string.upper
    -- Steps that C may take at the most: one or two seconds.
    local MOST = 5e8
    local MOST_REPETITIONS = 100
    local SPECIAL = "[%^%$%*%+%?%.%(%[%%%-]"

    -- How many items of a pattern can match in more than one way. Remembered, for scripts use few patterns.
    local known, known_count = {}, 0

    local function repetitions(pattern)
        local count = known[pattern]
        if count then return count end
        count = 0
        local i, size = 1, #pattern
        while i <= size do
            local c = byte(pattern, i)
            if c == 37 then
                local d = byte(pattern, i + 1)
                -- %b and back references take as long as what they match.
                if d == 98 or (d and d >= 48 and d <= 57) then count = count + 1 end
                i = i + 2
            elseif c == 91 then
                i = i + 1
                if byte(pattern, i) == 94 then i = i + 1 end
                repeat
                    if byte(pattern, i) == 37 then i = i + 1 end
                    i = i + 1
                until i > size or byte(pattern, i) == 93
                i = i + 1
            else
                if c == 42 or c == 43 or c == 45 or c == 63 then count = count + 1 end
                i = i + 1
            end
        end
        if known_count >= 500 then known, known_count = {}, 0 end
        known[pattern], known_count = count, known_count + 1
        return count
    end

    local function is_cheap(subject, pattern)
        local size, count = #subject, repetitions(pattern)
        if count > MOST_REPETITIONS then return false end
        local worst = (#pattern + 1) * (size + 1) ^ (count + 1)
        if worst > 1e6 and clock() > state[DEADLINE] then over_time() end
        return worst <= MOST
    end

    -- The matcher -------------------------------------------------------------------------------------------------

    local CLASSES = {
        [97] = "^%a", [99] = "^%c", [100] = "^%d", [108] = "^%l", [112] = "^%p", [115] = "^%s", [117] = "^%u",
        [119] = "^%w", [120] = "^%x", [122] = "^%z",
    }

    local function in_class(c, class)
        local test = CLASSES[class]
        if test then return c_find(char(c), test) ~= nil end
        test = CLASSES[class + 32]
        if class >= 65 and class <= 90 and test then return c_find(char(c), test) == nil end
        return c == class
    end

    -- Where the item that begins at p ends.
    local function item_end(m, p)
        local pattern = m.pattern
        local c = byte(pattern, p)
        p = p + 1
        if c == 37 then
            if p > #pattern then error("malformed pattern (ends with '%')", 0) end
            return p + 1
        elseif c == 91 then
            if byte(pattern, p) == 94 then p = p + 1 end
            repeat
                if p > #pattern then error("malformed pattern (missing ']')", 0) end
                local d = byte(pattern, p)
                p = p + 1
                if d == 37 then p = p + 1 end
            until byte(pattern, p) == 93
            return p + 1
        end
        return p
    end

    -- Is the byte in the set between p ('[') and last (']')?
    local function in_set(pattern, c, p, last)
        local wanted = true
        if byte(pattern, p + 1) == 94 then
            wanted = false
            p = p + 1
        end
        p = p + 1
        while p < last do
            local d = byte(pattern, p)
            if d == 37 then
                p = p + 1
                if in_class(c, byte(pattern, p)) then return wanted end
            elseif byte(pattern, p + 1) == 45 and p + 2 < last then
                if d <= c and c <= byte(pattern, p + 2) then return wanted end
                p = p + 2
            elseif d == c then
                return wanted
            end
            p = p + 1
        end
        return not wanted
    end

    local function fits_one(m, s, p, stop)
        local c = byte(m.subject, s)
        if not c then return false end
        local d = byte(m.pattern, p)
        if d == 46 then return true end
        if d == 37 then return in_class(c, byte(m.pattern, p + 1)) end
        if d == 91 then return in_set(m.pattern, c, p, stop - 1) end
        return c == d
    end

    local go

    local function balanced(m, s, p)
        local open, close = byte(m.pattern, p, p + 1)
        if not close then error("unbalanced pattern", 0) end
        if byte(m.subject, s) ~= open then return nil end
        local depth, i = 1, s + 1
        while i <= #m.subject do
            local c = byte(m.subject, i)
            if c == close then
                depth = depth - 1
                if depth == 0 then return i + 1 end
            elseif c == open then
                depth = depth + 1
            end
            i = i + 1
        end
        return nil
    end

    local function open_capture(m, s, p, length)
        if m.level >= 32 then error("too many captures", 0) end
        local level = m.level + 1
        m.starts[level], m.lengths[level], m.level = s, length, level
        local stop = go(m, s, p)
        if not stop then m.level = m.level - 1 end
        return stop
    end

    local function close_capture(m, s, p)
        for level = m.level, 1, -1 do
            if m.lengths[level] == -1 then
                m.lengths[level] = s - m.starts[level]
                local stop = go(m, s, p)
                if not stop then m.lengths[level] = -1 end
                return stop
            end
        end
        error("invalid pattern capture", 0)
    end

    local function back_reference(m, s, digit)
        local level = digit - 48
        if level < 1 or level > m.level or m.lengths[level] == -1 then error("invalid capture index", 0) end
        if m.lengths[level] < 0 then return nil end
        local text = sub(m.subject, m.starts[level], m.starts[level] + m.lengths[level] - 1)
        if sub(m.subject, s, s + #text - 1) == text then return s + #text end
        return nil
    end

    local function at_frontier(m, s, p, stop)
        local before, after = byte(m.subject, s - 1), byte(m.subject, s)
        if s == 1 then before = nil end
        return not in_set(m.pattern, before or 0, p, stop - 1) and in_set(m.pattern, after or 0, p, stop - 1)
    end

    local function most_first(m, s, p, stop)
        local count = 0
        while fits_one(m, s + count, p, stop) do count = count + 1 end
        while count >= 0 do
            local found = go(m, s + count, stop + 1)
            if found then return found end
            count = count - 1
        end
        return nil
    end

    local function least_first(m, s, p, stop)
        while true do
            local found = go(m, s, stop + 1)
            if found then return found end
            if not fits_one(m, s, p, stop) then return nil end
            s = s + 1
        end
    end

    -- Match the pattern from p on at s: the position behind the match, or nil.
    go = function(m, s, p)
        local pattern = m.pattern
        while true do
            local c = byte(pattern, p)
            if not c then return s end
            if c == 40 then
                if byte(pattern, p + 1) == 41 then return open_capture(m, s, p + 2, -2) end
                return open_capture(m, s, p + 1, -1)
            elseif c == 41 then
                return close_capture(m, s, p + 1)
            elseif c == 36 and p == #pattern then
                return s == #m.subject + 1 and s or nil
            end
            local d = c == 37 and byte(pattern, p + 1)
            if d == 98 then
                s = balanced(m, s, p + 2)
                if not s then return nil end
                p = p + 4
            elseif d == 102 then
                if byte(pattern, p + 2) ~= 91 then error("missing '[' after '%f' in pattern", 0) end
                local stop = item_end(m, p + 2)
                if not at_frontier(m, s, p + 2, stop) then return nil end
                p = stop
            elseif d and d >= 48 and d <= 57 then
                s = back_reference(m, s, d)
                if not s then return nil end
                p = p + 2
            else
                local stop = item_end(m, p)
                local suffix = byte(pattern, stop)
                if suffix == 63 then
                    if fits_one(m, s, p, stop) then
                        local found = go(m, s + 1, stop + 1)
                        if found then return found end
                    end
                    p = stop + 1
                elseif suffix == 42 then
                    return most_first(m, s, p, stop)
                elseif suffix == 43 then
                    return fits_one(m, s, p, stop) and most_first(m, s + 1, p, stop) or nil
                elseif suffix == 45 then
                    return least_first(m, s, p, stop)
                else
                    if not fits_one(m, s, p, stop) then return nil end
                    s, p = s + 1, stop
                end
            end
        end
    end

    local function matcher(subject, pattern)
        return { subject = subject, pattern = pattern, level = 0, starts = {}, lengths = {} }
    end

    local function capture(m, level, s, stop)
        if level > m.level then
            if level == 1 then return sub(m.subject, s, stop - 1) end
            error("invalid capture index", 0)
        end
        local length = m.lengths[level]
        if length == -2 then return m.starts[level] end
        if length == -1 then error("unfinished capture", 0) end
        return sub(m.subject, m.starts[level], m.starts[level] + length - 1)
    end

    local function captures(m, s, stop, whole)
        local count = (m.level == 0 and whole) and 1 or m.level
        local found = {}
        for level = 1, count do found[level] = capture(m, level, s, stop) end
        return unpack(found, 1, count)
    end

    local function first_from(m, s, p, anchored)
        repeat
            m.level = 0
            local stop = go(m, s, p)
            if stop then return s, stop end
            s = s + 1
        until s > #m.subject + 1 or anchored
        return nil
    end

    -- The library ---------------------------------------------------------------------------------------------------

    local function start_of(subject, init)
        init = tonumber(init) or 1
        if init < 0 then init = #subject + init + 1 end
        if init < 1 then init = 1 end
        return floor(init)
    end

    local function search(subject, pattern, init, wants_positions)
        local s = start_of(subject, init)
        if s > #subject + 1 then s = #subject + 1 end
        local anchored = byte(pattern, 1) == 94
        local m = matcher(subject, pattern)
        local from, stop = first_from(m, s, anchored and 2 or 1, anchored)
        if not from then return nil end
        if wants_positions then return from, stop - 1, captures(m, from, stop, false) end
        return captures(m, from, stop, true)
    end

    local function texts(name, subject, pattern)
        if type(subject) == "number" then subject = tostring(subject) end
        if type(pattern) == "number" then pattern = tostring(pattern) end
        if type(subject) ~= "string" then
            error(format("bad argument #1 to '%s' (string expected, got %s)", name,
                subject == nil and "no value" or type(subject)), 3)
        end
        if type(pattern) ~= "string" then
            error(format("bad argument #2 to '%s' (string expected, got %s)", name,
                pattern == nil and "no value" or type(pattern)), 3)
        end
        return subject, pattern
    end

    -- Errors of C and of the matcher get the position of whoever called.
    local function settled(ok, ...)
        if ok then return ... end
        local text = ...
        if type(text) ~= "string" or text == limits.too_long or text == NO_MEMORY then error(text, 0) end
        error(text, 3)
    end

    function lib.string.find(subject, pattern, init, plain)
        subject, pattern = texts("find", subject, pattern)
        if plain or not c_find(pattern, SPECIAL) then
            if #subject * #pattern > MOST then
                return from_host(3, pcall(host.find, subject, pattern, start_of(subject, init)))
            end
            return c_find(subject, pattern, init, true)
        end
        if is_cheap(subject, pattern) then return settled(pcall(c_find, subject, pattern, init)) end
        return settled(pcall(search, subject, pattern, init, true))
    end

    function lib.string.match(subject, pattern, init)
        subject, pattern = texts("match", subject, pattern)
        if is_cheap(subject, pattern) then return settled(pcall(c_match, subject, pattern, init)) end
        return settled(pcall(search, subject, pattern, init, false))
    end

    function lib.string.gmatch(subject, pattern)
        subject, pattern = texts("gmatch", subject, pattern)
        if is_cheap(subject, pattern) then return c_gmatch(subject, pattern) end
        local s = 1
        return function()
            if s > #subject + 1 then return nil end
            local m = matcher(subject, pattern)
            local from, stop = first_from(m, s, 1, false)
            if not from then
                s = #subject + 2
                return nil
            end
            s = stop == from and stop + 1 or stop
            return captures(m, from, stop, true)
        end
    end
    lib.string.gfind = lib.string.gmatch

    local function expanded(m, template, from, stop)
        return (c_gsub(template, "%%(.?)", function(c)
            if c == "0" then return sub(m.subject, from, stop - 1) end
            if c_find(c, "^%d") then return capture(m, tonumber(c), from, stop) end
            return c
        end))
    end

    local function replacement_of(m, with, from, stop)
        local value
        if type(with) == "function" then
            value = with(captures(m, from, stop, true))
        elseif type(with) == "table" then
            value = with[capture(m, 1, from, stop)]
        else
            value = expanded(m, with, from, stop)
        end
        if not value then return sub(m.subject, from, stop - 1) end
        if type(value) == "string" or type(value) == "number" then return value end
        error("invalid replacement value (a " .. type(value) .. ")", 0)
    end

    local function replace(subject, pattern, with, most)
        local anchored = byte(pattern, 1) == 94
        local m = matcher(subject, pattern)
        local out, s, count = {}, 1, 0
        while count < most do
            m.level = 0
            local stop = go(m, s, anchored and 2 or 1)
            if stop then
                count = count + 1
                out[#out + 1] = replacement_of(m, with, s, stop)
            end
            if stop and stop > s then
                s = stop
            elseif s <= #subject then
                out[#out + 1] = sub(subject, s, s)
                s = s + 1
            else
                break
            end
            if anchored then break end
        end
        out[#out + 1] = sub(subject, s)
        return concat(out), count
    end

    function lib.string.gsub(subject, pattern, with, most)
        subject, pattern = texts("gsub", subject, pattern)
        if type(with) == "number" then with = tostring(with) end
        if type(with) ~= "string" and type(with) ~= "function" and type(with) ~= "table" then
            error("bad argument #3 to 'gsub' (string/function/table expected)", 2)
        end
        if is_cheap(subject, pattern) then
            -- What a callback raises is its own.
            if type(with) ~= "string" then return c_gsub(subject, pattern, with, most) end
            return settled(pcall(c_gsub, subject, pattern, with, most))
        end
        if most ~= nil then most = tonumber(most) end
        return replace(subject, pattern, with, most or #subject + 1)
    end

    reset_patterns = function() known, known_count = {}, 0 end
end
"""
