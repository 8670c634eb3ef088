// SystemKernel: what the kernel of this machine does for a governor.
import { availableParallelism } from 'node:os';

import { Board, boardClock, queueLength } from '../../fd/internal.js';
import type { Kernel } from './governor.js';

export const systemKernel: Kernel = {
  createPage: () => {
    const { board, descriptor } = Board.create();
    const page = {
      // Not once and for all: it is another array when the board was given up.
      get words() {
        return board.words;
      },
      time: boardClock,
      [Symbol.dispose]: () => {
        board[Symbol.dispose]();
      },
    };
    return { page, descriptor };
  },
  queueLength,
  cores: availableParallelism(),
};
