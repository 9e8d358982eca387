"""The contours of nested binary maps, from runs of pixels: the compiled part of contours.py.

A *run* is a stretch of foreground in a row, a *gap* the background between it and the next run
of that row. One pass over the map finds the runs of all levels, from where neighbouring pixels
differ; after it a level costs as much as it has runs, not pixels. Components are runs joined
by eight-connectivity; holes are gaps joined by four-connectivity that nowhere reach the open.

``starts`` and ``ends`` (half-open columns) hold the runs of all levels, in raster order within
each; those of a level's row y are ``rows[y]`` up to ``rows[y + 1]``. A gap has the number of
the run before it. Sets are union-find forests in which a root is its set's smallest number,
so the one a raster scan meets first.
"""

from typing import no_type_check

import numpy as np
from numba import njit

_OPEN = -1  # the parent of what lies in no hole
_WEST = 4
_DX = (1, 1, 0, -1, -1, -1, 0, 1)  # eight neighbours, counterclockwise from the east
_DY = (0, -1, -1, -1, 0, 1, 1, 1)

# Below, no_type_check keeps the test-suite's run-time type checks away from the compiler.


@njit(cache=True)
@no_type_check
def scan(grey, levels, is_outer_only):
    """The protocol boxes of all contours, of the pixels above each level.

    Args:
        grey: uint8 h w.
        levels: int64, distinct, ascending, in [0, 255].
        is_outer_only: leave out the contours around holes; the order is then not OpenCV's.

    Returns:
        boxes: int32 k 4, level after level, in OpenCV's order; no contour gives 0 0 0 0.
        counts: int64, boxes of each level, at least 1.
        largest: int64, the row of the contour of largest area at each level.
    """
    edges, edge_rows = _find_edges(grey, levels)
    starts, ends, all_rows = _find_runs(edges, edge_rows, len(levels))
    most = 1
    for rows in all_rows:
        most = max(most, rows[-1] - rows[0])
    run_sets, node_of = np.empty(most, np.int64), np.empty(most, np.int64)
    gap_sets = np.empty(most + 1, np.int64)
    rects = np.empty((2 * most, 4), np.int64)
    boxes = np.zeros((len(levels) + 2 * len(starts), 4), np.int32)
    counts, largest = np.ones(len(levels), np.int64), np.zeros(len(levels), np.int64)
    stop = 0
    for level, rows in enumerate(all_rows):
        low, high = rows[0], rows[-1]
        s, e, rows = starts[low:high], ends[low:high], rows - low
        _join_runs(s, e, rows, run_sets)
        num_components = _measure_runs(s, e, rows, run_sets, node_of, rects)
        best = _largest(grey, levels[level], rects[:num_components], s, run_sets)
        num_holes = 0
        if not is_outer_only:
            _join_gaps(s, e, rows, gap_sets)
            num_holes = _measure_gaps(s, e, rows, gap_sets, rects[num_components:])
        order = _opencv_order(rows, run_sets, gap_sets, node_of, num_components, num_holes)
        for place, node in enumerate(order):
            boxes[stop + place] = rects[node]
            if node == best:
                largest[level] = stop + place
        if num_components:
            counts[level] = len(order)
        else:
            largest[level] = stop
        stop += counts[level]
    boxes = boxes[:stop]
    boxes[:, 2] = np.minimum(boxes[:, 2], grey.shape[1] - 1)
    boxes[:, 3] = np.minimum(boxes[:, 3], grey.shape[0] - 1)
    return boxes, counts, largest


@njit(cache=True)
@no_type_check
def _find_edges(grey, levels):
    """Where a row passes levels: column, and how many levels lie below before and after it.

    Returns:
        edges: int32 k 3, row after row. Before the first pixel and after the last it is 0.
        rows: int64 h + 1, the edges of row y are ``rows[y]`` up to ``rows[y + 1]``.
    """
    height, width = grey.shape
    below = np.zeros(256, np.int32)  # of a pixel of each grey level
    for level in levels:
        below[level + 1 :] += 1
    edges = np.empty((height * (width + 1), 3), np.int32)
    rows = np.zeros(height + 1, np.int64)
    count = 0
    for y in range(height):
        before = 0
        for x in range(width + 1):
            after = below[grey[y, x]] if x < width else 0
            if after != before:
                edges[count, 0] = x
                edges[count, 1] = before
                edges[count, 2] = after
                count += 1
                before = after
        rows[y + 1] = count
    return edges[:count], rows


@njit(cache=True)
@no_type_check
def _find_runs(edges, edge_rows, num_levels):
    """All runs' starts and ends, and each level's ``rows``: int64, levels by h + 1."""
    height = len(edge_rows) - 1
    rows = np.zeros((num_levels, height + 1), np.int64)
    for y in range(height):  # how many runs there are, counted by their starts
        for edge in edges[edge_rows[y] : edge_rows[y + 1]]:
            for level in range(edge[1], edge[2]):
                rows[level, y + 1] += 1
    total = 0
    for level in range(num_levels):
        for y in range(height + 1):
            total += rows[level, y]
            rows[level, y] = total
    starts, ends = np.empty(total, np.int32), np.empty(total, np.int32)
    next_start, next_end = np.empty(num_levels, np.int64), np.empty(num_levels, np.int64)
    for y in range(height):
        next_start[:] = rows[:, y]
        next_end[:] = rows[:, y]
        for edge in edges[edge_rows[y] : edge_rows[y + 1]]:
            for level in range(edge[1], edge[2]):
                starts[next_start[level]] = edge[0]
                next_start[level] += 1
            for level in range(edge[2], edge[1]):
                ends[next_end[level]] = edge[0]
                next_end[level] += 1
    return starts, ends, rows


@njit(cache=True)
@no_type_check
def _root(sets, i):
    while sets[i] != i:
        sets[i] = sets[sets[i]]
        i = sets[i]
    return i


@njit(cache=True)
@no_type_check
def _join(sets, i, j):
    i, j = _root(sets, i), _root(sets, j)
    sets[max(i, j)] = min(i, j)


@njit(cache=True)
@no_type_check
def _join_runs(starts, ends, rows, sets):
    """Joins runs that touch across rows, corners included."""
    for run in range(len(starts)):
        sets[run] = run
    for y in range(1, len(rows) - 1):
        above = rows[y - 1]
        for run in range(rows[y], rows[y + 1]):
            while above < rows[y] and ends[above] < starts[run]:
                above += 1
            other = above
            while other < rows[y] and starts[other] <= ends[run]:
                _join(sets, other, run)
                other += 1


@njit(cache=True)
@no_type_check
def _stretch(rect, is_new, x0, y0, x1, y1):
    """Makes a rectangle cover another; a new one becomes it."""
    rect[0] = x0 if is_new else min(rect[0], x0)
    rect[1] = y0 if is_new else min(rect[1], y0)
    rect[2] = x1 if is_new else max(rect[2], x1)
    rect[3] = y1 if is_new else max(rect[3], y1)


@njit(cache=True)
@no_type_check
def _measure_runs(starts, ends, rows, sets, node_of, rects):
    """Numbers the components, in raster order, for all their runs; their rectangles."""
    num_nodes = 0
    for y in range(len(rows) - 1):
        for run in range(rows[y], rows[y + 1]):
            root = _root(sets, run)
            if root == run:
                node_of[run] = num_nodes
                num_nodes += 1
            node_of[run] = node_of[root]
            _stretch(rects[node_of[run]], root == run, starts[run], y, ends[run], y + 1)
    return num_nodes


@njit(cache=True)
@no_type_check
def _largest(grey, level, rects, starts, sets):
    """The component whose outer contour has the largest area; of equals the last found.

    Contours are followed only where the rectangle leaves room for a larger area.
    """
    best, best_area = -1, -1
    if len(rects) == 1:
        return 0
    run = len(starts)
    for node in range(len(rects) - 1, -1, -1):
        run -= 1
        while sets[run] != run:
            run -= 1
        rect = rects[node]
        if 2 * (rect[2] - rect[0] - 1) * (rect[3] - rect[1] - 1) > best_area:
            area = _twice_contour_area(grey, level, starts[run], rect[1])
            if area > best_area:
                best, best_area = node, area
    return best


@njit(cache=True)
@no_type_check
def _is_above(grey, level, x, y):
    return 0 <= x < grey.shape[1] and 0 <= y < grey.shape[0] and grey[y, x] > level


@njit(cache=True)
@no_type_check
def _twice_contour_area(grey, level, x, y):
    """Twice the area of the polygon through a component's border, from its first pixel on.

    Border following after Suzuki and Abe (1985), which is what OpenCV does; an integer.
    """
    first = -1
    for turn in range(8):
        way = (_WEST - turn) % 8
        if _is_above(grey, level, x + _DX[way], y + _DY[way]):
            first = way
            break
    if first < 0:
        return 0
    start_x, start_y, back, area = x, y, first, 0
    last_x, last_y = x + _DX[first], y + _DY[first]
    while True:
        for turn in range(1, 9):
            way = (back + turn) % 8
            if _is_above(grey, level, x + _DX[way], y + _DY[way]):
                break
        next_x, next_y = x + _DX[way], y + _DY[way]
        area += x * next_y - y * next_x
        if next_x == start_x and next_y == start_y and x == last_x and y == last_y:
            return abs(area)
        x, y, back = next_x, next_y, (way + 4) % 8


@njit(cache=True)
@no_type_check
def _join_gaps(starts, ends, rows, sets):
    """Joins gaps that share a side across rows. Gap g is number g + 1; 0 is the open."""
    sets[: len(starts) + 1] = np.arange(len(starts) + 1)
    for y in range(len(rows) - 1):
        for gap in range(rows[y], rows[y + 1] - 1):
            left, right = ends[gap], starts[gap + 1]
            for other in (y - 1, y + 1):
                if other < 0 or other == len(rows) - 1 or rows[other] == rows[other + 1]:
                    _join(sets, gap + 1, 0)
                elif left < starts[rows[other]] or right > ends[rows[other + 1] - 1]:
                    _join(sets, gap + 1, 0)
            if y > 0:
                for above in range(rows[y - 1], rows[y] - 1):
                    if ends[above] < right and left < starts[above + 1]:
                        _join(sets, gap + 1, above + 1)


@njit(cache=True)
@no_type_check
def _measure_gaps(starts, ends, rows, sets, rects):
    """The rectangles of the contours around holes, which run on the pixels beside them."""
    num_nodes = 0
    node_of = np.empty(len(starts) + 1, np.int64)
    for y in range(len(rows) - 1):
        for gap in range(rows[y], rows[y + 1] - 1):
            root = _root(sets, gap + 1)
            if root == 0:
                continue
            if root == gap + 1:
                node_of[root] = num_nodes
                num_nodes += 1
            rect = rects[node_of[root]]
            _stretch(rect, root == gap + 1, ends[gap] - 1, y - 1, starts[gap + 1] + 1, y + 2)
    return num_nodes


@njit(cache=True)
@no_type_check
def _opencv_order(rows, run_sets, gap_sets, node_of, num_components, num_holes):
    """The nodes as OpenCV lists them: depth first, of siblings the last found first.

    Components are nodes from 0 on, holes follow. A component lies in the hole of the gap
    before its first run, a hole in the component of the run before its first gap.
    """
    num_nodes = num_components + num_holes
    if num_holes == 0:
        return np.arange(num_nodes)[::-1].copy()
    child, sibling = np.full(num_nodes + 1, -1), np.full(num_nodes + 1, -1)
    hole_of = np.empty(rows[-1] + 1, np.int64)  # by root gap
    hole_of[0] = _OPEN
    hole = num_components
    for y in range(len(rows) - 1):
        for run in range(rows[y], rows[y + 1]):
            if run + 1 < rows[y + 1] and gap_sets[run + 1] == run + 1:
                hole_of[run + 1] = hole
                hole += 1
    for y in range(len(rows) - 1):
        for run in range(rows[y], rows[y + 1]):
            if run_sets[run] == run:
                parent = _OPEN if run == rows[y] else hole_of[_root(gap_sets, run)]
                sibling[node_of[run]] = child[parent]
                child[parent] = node_of[run]
            if run + 1 < rows[y + 1] and gap_sets[run + 1] == run + 1:
                node, parent = hole_of[run + 1], node_of[run]
                sibling[node] = child[parent]
                child[parent] = node
    order, stack = np.empty(num_nodes, np.int64), [child[_OPEN]]
    count = 0
    while stack:
        node = stack.pop()
        order[count] = node
        count += 1
        if sibling[node] >= 0:
            stack.append(sibling[node])
        if child[node] >= 0:
            stack.append(child[node])
    return order
