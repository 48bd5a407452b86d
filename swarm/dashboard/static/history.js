// What the charts draw: the last ticks that the server has, and those that it had before the browser's last answer.

export class History {
  times = [];
  series = []; // of each node {rates, median, p99}
  #run = "";
  #number = 0;

  /** What a request has to name, to get the ticks that are lacking here. */
  get query() {
    return `run=${encodeURIComponent(this.#run)}&after=${this.#number}`;
  }

  take(answer) {
    const nodes = answer.now?.nodes.length ?? 0;
    const missed = answer.number - this.#number > answer.history.length;
    if (answer.run !== this.#run || missed || nodes !== this.series.length) {
      this.times = [];
      this.series = Array.from({ length: nodes }, () => ({ rates: [], median: [], p99: [] }));
    }
    this.#run = answer.run;
    this.#number = answer.number;
    for (const [at_s, ...samples] of answer.history) {
      this.times.push(at_s);
      samples.forEach(([requests, median, p99], number) => {
        const { rates, median: medians, p99: p99s } = this.series[number];
        rates.push(requests);
        medians.push(median);
        p99s.push(p99);
      });
    }
    const tooMany = this.times.length - answer.ticks_max;
    if (tooMany > 0) {
      this.times.splice(0, tooMany);
      for (const each of this.series) for (const values of Object.values(each)) values.splice(0, tooMany);
    }
  }
}
