import { assert, assertEquals } from "@std/assert";
import {
  FLUSH,
  MAX_REQUESTS,
  Pieces,
  READ,
  RequestQueue,
  Requests,
  WAITING,
  WRITE,
} from "./requests.ts";

Deno.test("a row that is taken again holds nothing of its former request", () => {
  const requests = new Requests();
  const slot = requests.take(WRITE, 4096, 512, true);
  requests.error[slot] = 5;
  requests.first_piece[slot] = requests.last_piece[slot] = 9;
  requests.pool.put(slot);
  assertEquals(requests.take(READ, 0, 100, false), slot);
  const { kind, state, fua, error, first_piece, last_piece } = requests;
  assertEquals([kind[slot], state[slot], fua[slot], error[slot]], [READ, WAITING, 0, 0]);
  assertEquals([first_piece[slot], last_piece[slot]], [-1, -1]);
  assertEquals([requests.off_bytes[slot], requests.len_bytes[slot]], [0, 100]);
});

Deno.test("offsets of the largest devices are exact", () => {
  const requests = new Requests();
  const off_bytes = 2 ** 50 + 512;
  const slot = requests.take(READ, off_bytes, 512, false);
  assertEquals(requests.off_bytes[slot], off_bytes);
});

Deno.test("no more requests than there are slots", () => {
  const requests = new Requests();
  for (let i = 0; i < MAX_REQUESTS; i++) assert(requests.take(READ, 0, 0, false) >= 0);
  assertEquals(requests.take(FLUSH, 0, 0, false), -1);
});

Deno.test("pieces are listed in the order they were appended, each request's apart", () => {
  const requests = new Requests();
  const pieces = new Pieces();
  const [a, b] = [requests.take(READ, 0, 0, false), requests.take(READ, 0, 0, false)];
  for (let i = 0; i < 4; i++) {
    pieces.addr[pieces.append(requests, a, 10 + i)] = 1000 + i;
    pieces.addr[pieces.append(requests, b, 20 + i)] = 2000 + i;
  }
  const listOf = (slot: number) => {
    const list: number[][] = [];
    for (let at = requests.first_piece[slot]!; at >= 0; at = pieces.next[at]!) {
      assertEquals(pieces.request[at], slot);
      assertEquals([pieces.seg[at], pieces.fill[at], pieces.sectors[at]], [-1, -1, 0]);
      list.push([pieces.addr[at]!, pieces.len_bytes[at]!]);
    }
    return list;
  };
  assertEquals(listOf(a), [[1000, 10], [1001, 11], [1002, 12], [1003, 13]]);
  assertEquals(listOf(b), [[2000, 20], [2001, 21], [2002, 22], [2003, 23]]);
});

Deno.test("a queue gives requests out in the order they came", () => {
  const requests = new Requests();
  const queue = new RequestQueue(requests);
  const [a, b, c] = [0, 1, 2].map(() => requests.take(READ, 0, 0, false));
  assertEquals([queue.is_empty, queue.peek(), queue.shift()], [true, -1, -1]);
  queue.push(c!);
  queue.push(a!);
  assertEquals([queue.peek(), queue.shift()], [c, c]);
  queue.push(b!);
  assertEquals([queue.shift(), queue.shift(), queue.shift()], [a, b, -1]);
  queue.push(b!);
  assertEquals([queue.is_empty, queue.shift(), queue.is_empty], [false, b, true]);
});

Deno.test("the first of a queue can be linked into another one before it is dropped", () => {
  const requests = new Requests();
  const queue = new RequestQueue(requests);
  const other = new RequestQueue(requests);
  const slots = [0, 1, 2].map(() => requests.take(READ, 0, 0, false));
  for (const slot of slots) queue.push(slot);
  for (const slot of slots) {
    const after = queue.afterFirst();
    assertEquals(queue.peek(), slot);
    other.push(slot);
    queue.dropFirst(after);
  }
  assert(queue.is_empty);
  assertEquals(slots.map(() => other.shift()), slots);
  queue.push(slots[1]!);
  assertEquals(queue.shift(), slots[1]);
});
